from __future__ import annotations

import asyncio

import pytest

from sfumato.cache.time_limit import time_limit
from tests.conftest import PassBy

pytestmark = pytest.mark.anyio
SECONDS = 60.0


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_in_time_is_left_alone() -> None:
    async with time_limit(SECONDS):
        await asyncio.sleep(0)
    before = asyncio.all_tasks()
    async with time_limit(0.0):
        pass
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("seconds", [0.0, 0.01])
async def test_what_takes_longer_is_ended(seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with time_limit(seconds):
            await asyncio.Event().wait()


async def test_it_lasts_as_long_as_it_says(pass_by: PassBy) -> None:
    ended = asyncio.create_task(bounded(asyncio.Event()))
    for _ in range(59):
        await turns(10)
        pass_by(1)
    await turns(10)
    assert not ended.done()
    pass_by(2)
    await turns(10)
    with pytest.raises(TimeoutError):
        await ended


@pytest.mark.parametrize("stood_still", [1, 2, 4])
@pytest.mark.parametrize("turns_between", range(6))
async def test_an_answer_that_came_while_the_loop_stood_still_is_an_answer(
    pass_by: PassBy, stood_still: int, turns_between: int
) -> None:
    """A connection's answer takes some turns of the loop to whoever waits for it."""
    answer = asyncio.Event()
    waiting = asyncio.create_task(bounded(answer))
    await turns(1)
    for _ in range(stood_still):
        pass_by(10 * SECONDS)
        await turns(turns_between // 2)
    await turns(turns_between)
    assert not waiting.done()
    answer.set()
    await waiting


async def test_a_loop_that_stands_still_all_the_time_ends_it(pass_by: PassBy) -> None:
    waiting = asyncio.create_task(bounded(asyncio.Event()))
    for _ in range(6):
        await turns(10)
        pass_by(10 * SECONDS)
    await turns(10)
    with pytest.raises(TimeoutError):
        await waiting


async def bounded(event: asyncio.Event) -> None:
    async with time_limit(SECONDS):
        await event.wait()
