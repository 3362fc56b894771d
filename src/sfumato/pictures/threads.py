"""Where work on pixels runs: in threads of its own number, so that it starves neither the cache nor base64."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")
_FEWEST = 2
# A limiter belongs to the event loop that it is made in.
_limiter: RunVar[CapacityLimiter] = RunVar("sfumato_pixel_limiter")


def pixel_limiter() -> CapacityLimiter:
    """Return the running event loop's places for work on pixels: one per core, at least 2."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(max(_FEWEST, os.cpu_count() or _FEWEST))
        _limiter.set(limiter)
    return limiter


async def run_pixel_work(work: Callable[[], T]) -> T:
    """Return what *work* gives, done in a thread when a place is free; what it raises passes through.

    A picture of 64 million pixels takes 256 MB decoded: the places bound the memory, however many requests there are.
    Who is cancelled while waiting for a place leaves the queue; work that runs already keeps its place to its end.
    """
    limiter, place = pixel_limiter(), object()
    await limiter.acquire_on_behalf_of(place)
    job = asyncio.ensure_future(to_thread.run_sync(work, limiter=CapacityLimiter(1)))

    def leave(done: asyncio.Future[T]) -> None:
        limiter.release_on_behalf_of(place)
        # Read here, should nobody wait for it any more.
        if not done.cancelled():
            done.exception()

    job.add_done_callback(leave)
    # Cancelling the wait does not end the job: the thread would not stop, and the next one would start beside it. Not
    # by `asyncio.shield`: since Python 3.14 it logs the error of what its waiter left.
    await asyncio.wait([job])
    return job.result()
