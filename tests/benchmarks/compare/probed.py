"""`sfumato serve`'s app with a probe in its event loop, for ``uvicorn --factory``."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from sfumato.asgi.app import create_app as create_ours
from sfumato.settings import load_settings

_TICK_SECONDS = 0.001
LAG_PATH = "/benchmark/lag"


class Probe:
    """Tells by how much the event loop was late at its worst, and for how long one turn of it kept the CPU.

    A loop is late, too, when other processes have the CPU. What its own thread used between two ticks is its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._late = self._busy = 0.0
        self._ticking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())
        if scope["type"] == "http" and scope["path"] == LAG_PATH:
            await self._tell(send)
        else:
            await self._app(scope, receive, send)

    async def _tick(self) -> None:
        while True:
            due, used = time.perf_counter() + _TICK_SECONDS, time.thread_time()
            await asyncio.sleep(_TICK_SECONDS)
            self._late = max(self._late, time.perf_counter() - due)
            self._busy = max(self._busy, time.thread_time() - used)

    async def _tell(self, send: Send) -> None:
        figures = {"late": self._late * 1000, "busy": self._busy * 1000}
        self._late = self._busy = 0.0
        body = json.dumps(figures).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def create_app() -> Any:
    """Build the app by the environment, open to everyone."""
    return Probe(create_ours(load_settings(), anonymous=True, export=True))
