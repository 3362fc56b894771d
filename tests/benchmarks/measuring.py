"""Times, event-loop stalls and memory of one piece of work. Machines are noisy: compare what was measured in turn."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

Work = Callable[[], Awaitable[object]]
_TICK_SECONDS = 0.0005
_PROCESS = Path("/proc/self")
_M_MMAP_THRESHOLD = -3
_MAPPED_BYTES = 64 * 1024


async def timed(work: Work) -> float:
    """Return how long *work* takes, in seconds."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def stalled(work: Work) -> float:
    """Return by how much the event loop was late at its worst during *work*, in seconds."""
    longest, last = 0.0, time.perf_counter()

    def note() -> None:
        nonlocal longest, last
        now = time.perf_counter()
        longest, last = max(longest, now - last - _TICK_SECONDS), now

    async def tick() -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            note()

    ticking = asyncio.create_task(tick())
    try:
        await work()
        note()
    finally:
        ticking.cancel()
    return longest


async def peak_growth(work: Work) -> int | None:
    """Return by how many bytes *work* raised the process's resident memory at its peak; None where that is not told.

    From the first call on, the allocator returns what is freed to the system at once.
    """
    gc.collect()
    try:
        # glibc would keep freed memory, in which the work then fits unseen.
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        library.malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _status_bytes("VmRSS")
    await work()
    return max(0, _status_bytes("VmHWM") - before)


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest value that *percent* of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def median_ratio(values: list[float], others: list[float]) -> float:
    """Return the median of the ratios, pair by pair."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
