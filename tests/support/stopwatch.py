"""How long something waited, as far as this event loop could have gone on."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

_TICK_SECONDS = 0.005


class Stopwatch:
    """Measure the time of a block without the time that the loop was busy or the machine had none for it.

    So a bound on waiting holds on any machine. What blocks the loop is not measured.

    Attributes:
        seconds: Set when the block is left.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._due = 0.0
        self._late = 0.0

    async def __aenter__(self) -> Self:
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._due = self._began + _TICK_SECONDS
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._note()
        self.seconds = self._now() - self._began - self._late
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._note()
            self._due = self._now() + _TICK_SECONDS

    def _note(self) -> None:
        self._late += max(0.0, self._now() - self._due)
