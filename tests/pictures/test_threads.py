from __future__ import annotations

import asyncio
import threading

import pytest
from anyio import to_thread

from sfumato.pictures.threads import pixel_limiter, run_pixel_work

pytestmark = pytest.mark.anyio


async def test_work_on_pixels_has_places_of_its_own() -> None:
    limiter, gate = pixel_limiter(), threading.Event()
    assert limiter.total_tokens >= 2
    assert limiter is not to_thread.current_default_thread_limiter()
    jobs = [asyncio.create_task(run_pixel_work(gate.wait)) for _ in range(int(limiter.total_tokens) + 3)]
    while limiter.statistics().tasks_waiting < 3:  # noqa: ASYNC110  # the limiter has no event for it
        await asyncio.sleep(0)
    assert await to_thread.run_sync(lambda: "free") == "free"
    gate.set()
    assert await asyncio.gather(*jobs) == [True] * len(jobs)
    assert limiter.borrowed_tokens == 0


async def test_cancelled_work_keeps_its_place_until_its_thread_ends() -> None:
    """Otherwise clients that hang up would start any number of threads beside each other."""
    started, gate = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        gate.wait()

    job = asyncio.create_task(run_pixel_work(work))
    await to_thread.run_sync(started.wait)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert pixel_limiter().borrowed_tokens == 1
    gate.set()
    while pixel_limiter().borrowed_tokens:  # noqa: ASYNC110  # the limiter has no event for it
        await asyncio.sleep(0)


async def test_what_the_work_raises_passes_through_and_frees_the_place() -> None:
    with pytest.raises(ZeroDivisionError):
        await run_pixel_work(lambda: 1 // 0)
    assert pixel_limiter().borrowed_tokens == 0
