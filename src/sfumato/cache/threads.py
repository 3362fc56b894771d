"""Where the cache's work on whole pictures runs: in few threads, so that many do not hold up the event loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")
_FEWEST = 2
# A limiter belongs to the event loop that it is made in.
_limiter: RunVar[CapacityLimiter] = RunVar("sfumato_cache_limiter")


async def run_whole(work: Callable[[], T]) -> T:
    """Return what *work* gives, done in a thread when a place is free: one per core, at least 2.

    More threads than cores would only take turns with the event loop, which then comes late (32 pictures of 15 MB,
    2 cores: 77 ms without the bound).
    """
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(max(_FEWEST, os.cpu_count() or _FEWEST))
        _limiter.set(limiter)
    return await to_thread.run_sync(work, limiter=limiter)
