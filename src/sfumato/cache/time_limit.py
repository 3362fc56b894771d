"""A limit on waiting for others, in which the time that this event loop stood still hardly counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SLICES = 4


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """Bound what is awaited inside by *seconds*.

    A loop that stands still for longer, on a machine that has no time for it, finds an answer and the end of the limit
    at the same moment, and asyncio's own timeout then drops the answer. Here such a while costs one slice of the limit,
    and what came meanwhile is read first.

    Args:
        seconds: Each of a few slices may come as late as the loop is held up; no more is added.

    Raises:
        TimeoutError: The time is over.
    """
    loop = asyncio.get_running_loop()
    slice_seconds = seconds / _SLICES
    timer: asyncio.TimerHandle | None = None

    def wait(delay: float, left: int) -> None:
        nonlocal timer
        timer = loop.call_later(delay, ring, left, loop.time() + delay)

    def ring(left: int, due: float) -> None:
        if left > 0:
            wait(slice_seconds, left - 1)
        elif left == 0:
            # The last look at what came, as late as this one.
            wait(min(slice_seconds, loop.time() - due), -1)
        else:
            scope.reschedule(loop.time())

    async with asyncio.timeout(None) as scope:
        wait(slice_seconds, _SLICES - 1)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
