"""An answer is somebody's at every moment: the client's that it was sent to, or whoever keeps it for that client."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.types import Message

from sfumato.asgi.responder import ImageDoor, ImageResponder
from sfumato.asgi.routes import ImageRoute
from sfumato.images.request import GeneratedImage, ImageResult, Operation, Picture, Usage
from sfumato.images.resolution import ImageWish
from sfumato.runtime import Runtime
from sfumato.telemetry.observer import Call
from tests.cache.contract import sample_request

pytestmark = pytest.mark.anyio
BODY = json.dumps({"model": "gemini-3-pro-image", "prompt": "x"}).encode()


class Engine:
    """Makes a picture when it is told to; like the engine it keeps what it made for a client that leaves then."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.kept = 0

    async def generate(self, wish: ImageWish, *, call: Call) -> ImageResult:
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.kept += self.finish.is_set()
            raise
        picture = Picture(encoded=(b"cGljdHVyZQ==",), mime_type="image/png", width=1, height=1)
        image = GeneratedImage(slot=0, picture=picture, usage=Usage(), price_usd=0.1, created=0)
        return ImageResult(request=sample_request(), images=(image,))

    def keep(self, result: ImageResult, *, call: Call) -> None:
        self.kept += 1


class Visit:
    """One request at the door, and what was sent to its client."""

    def __init__(self, *, waits: bool) -> None:
        self.engine = Engine()
        self.sent: list[Message] = []
        self._waits = waits
        self._messages: list[Message] = [{"type": "http.request", "body": BODY}]

    async def _receive(self) -> Message:
        if self._messages:
            return self._messages.pop()
        return await asyncio.Event().wait()  # type: ignore[return-value]  # never

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        if self._waits:
            await asyncio.sleep(0)

    @property
    def is_delivered(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False

    async def until_rendering(self) -> asyncio.Task[None]:
        runtime = SimpleNamespace(
            client=self.engine, draining=False, settings=SimpleNamespace(max_request_mb=1, drop_params=False)
        )

        async def authorize(_: Any) -> str:
            return "me"

        door = ImageDoor(runtime=cast("Runtime", runtime), authorize=authorize, fallback=None, default_model=None)
        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        responder = ImageResponder(door, ImageRoute(Operation.GENERATION), scope, self._receive, self._send)
        task = asyncio.create_task(responder.respond())
        await turns(20)
        return task


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("waits", [False, True], ids=["fast client", "slow client"])
@pytest.mark.parametrize("turn", range(16))
async def test_a_picture_is_nobodys_at_no_moment(turn: int, *, waits: bool) -> None:
    """The server ends the request's task so many turns of the event loop after the picture was finished."""
    visit = Visit(waits=waits)
    task = await visit.until_rendering()
    visit.engine.finish.set()
    await turns(turn)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert visit.is_delivered or visit.engine.kept == 1
