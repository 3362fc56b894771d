from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sfumato.engine.keepsakes import KEPT_SECONDS, Keepsakes
from sfumato.images.request import GeneratedImage, Picture, Usage

pytestmark = pytest.mark.anyio


def image(size: int = 10) -> GeneratedImage:
    picture = Picture(raw=b"p" * size, mime_type="image/png", width=1, height=1)
    return GeneratedImage(slot=0, picture=picture, usage=Usage(), price_usd=0.1, created=0)


class Box:
    def __init__(self, max_bytes: int = 1_000_000) -> None:
        self.now = 0.0
        self.kept = Keepsakes(clock=lambda: self.now, max_bytes=max_bytes)


async def made(picture: GeneratedImage, event: asyncio.Event) -> Any:
    await event.wait()
    return picture


async def test_what_is_kept_is_handed_over_once() -> None:
    box, picture = Box(), image()
    box.kept.keep("key", picture)
    assert box.kept.find("key") is picture, "finding leaves it there"
    assert box.kept.claim("key") is picture
    assert box.kept.claim("key") is None


@pytest.mark.parametrize(("seconds", "there"), [(KEPT_SECONDS - 1, True), (KEPT_SECONDS, False)])
async def test_it_is_kept_for_ten_minutes(seconds: float, *, there: bool) -> None:
    box = Box()
    box.kept.keep("key", image())
    box.now = seconds
    assert (box.kept.find("key") is not None) is there


async def test_the_oldest_makes_room_and_what_is_too_large_is_not_kept() -> None:
    box = Box(max_bytes=10_000)
    box.kept.keep("huge", image(10_000))
    assert box.kept.find("huge") is None
    for name in ("a", "b", "c"):
        box.kept.keep(name, image(3_000))
    assert [name for name in ("a", "b", "c") if box.kept.find(name)] == ["b", "c"]


async def test_a_running_one_is_claimed_as_it_is() -> None:
    box, event = Box(), asyncio.Event()
    task = asyncio.create_task(made(image(), event))
    box.kept.adopt("key", task)
    assert box.kept.claim("key") is task
    event.set()
    await task
    await asyncio.sleep(0)
    assert box.kept.claim("key") is None, "whoever claimed it has it"


async def test_a_running_one_is_kept_when_it_is_done() -> None:
    box, event, picture = Box(), asyncio.Event(), image()
    task = asyncio.create_task(made(picture, event))
    box.kept.adopt("key", task)
    event.set()
    await task
    await asyncio.sleep(0)
    assert box.kept.claim("key") is picture


async def test_one_that_fails_or_ends_leaves_nothing() -> None:
    box = Box()

    async def fails() -> None:
        raise ValueError("m")

    failing, ending = asyncio.create_task(fails()), asyncio.create_task(asyncio.Event().wait())
    box.kept.adopt("failing", failing)
    box.kept.adopt("ending", ending)
    ending.cancel()
    await asyncio.gather(failing, ending, return_exceptions=True)
    assert box.kept.claim("failing") is None
    assert box.kept.claim("ending") is None
