from __future__ import annotations

import asyncio

import pytest

from sfumato.engine.presence import Presence

pytestmark = pytest.mark.anyio


class Scene:
    """Two pictures of one request: each waits, is rendered, and may wait again."""

    def __init__(self) -> None:
        self.presence = Presence()
        self.go_on = asyncio.Event()
        self.left: list[int] = []
        self.presence.on_left = lambda slot, _: self.left.append(slot)

    async def picture(self, slot: int, *, render: bool, pause: bool = False) -> str:
        with self.presence.waiting():
            if render:
                self.presence.render(slot)
            if pause:
                self.presence.pause()
            await self.go_on.wait()
            return f"picture {slot}"


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_rendered_goes_on_and_what_waits_ends() -> None:
    scene = Scene()
    rendered = asyncio.create_task(scene.picture(0, render=True))
    queued = asyncio.create_task(scene.picture(1, render=False))
    pausing = asyncio.create_task(scene.picture(2, render=True, pause=True))
    await settled()
    scene.presence.leave()
    scene.presence.leave()
    await settled()
    assert (queued.cancelled(), pausing.cancelled(), rendered.done()) == (True, True, False)
    assert scene.left == [0]
    scene.go_on.set()
    assert await rendered == "picture 0"


async def test_whoever_is_done_is_not_told() -> None:
    scene = Scene()
    scene.go_on.set()
    assert await scene.picture(0, render=True) == "picture 0"
    scene.presence.leave()
    assert scene.left == []
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]  # a test is a task


def test_a_presence_is_told_of_tasks_only() -> None:
    with pytest.raises(RuntimeError):
        Presence().render(0)


async def test_what_begins_after_the_client_left_ends_at_once() -> None:
    scene = Scene()
    scene.presence.leave()
    scene.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await scene.picture(0, render=False)
