from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from sfumato.engine.supervisor import Supervisor

pytestmark = pytest.mark.anyio
WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


async def test_work_has_a_context_of_its_own() -> None:
    WHO.set("a request")

    async def work() -> str:
        return WHO.get()

    assert await Supervisor().start(work()) == "nobody"


async def test_draining_waits_for_all_work_also_for_what_it_begins() -> None:
    supervisor = Supervisor()
    done: list[str] = []

    async def second() -> None:
        await asyncio.sleep(0)
        done.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        supervisor.start(second())
        done.append("first")

    supervisor.start(first())
    assert await supervisor.drain(5) == 0
    assert done == ["first", "second"]
    assert len(supervisor) == 0


async def test_what_is_not_done_in_time_is_ended() -> None:
    supervisor = Supervisor()
    task = supervisor.start(asyncio.Event().wait())
    assert await supervisor.drain(0) == 1
    assert task.cancelled()
    assert len(supervisor) == 0


async def test_settling_waits_for_what_runs_now_and_ends_nothing() -> None:
    supervisor = Supervisor()
    event = asyncio.Event()
    task = supervisor.start(event.wait())
    asyncio.get_running_loop().call_soon(event.set)
    await supervisor.settle()
    assert task.result() is True
    await supervisor.settle()


async def test_an_error_that_nobody_reads_is_no_noise() -> None:
    supervisor = Supervisor()

    async def fail() -> None:
        raise ValueError("m")

    supervisor.start(fail())
    assert await supervisor.drain(5) == 0
