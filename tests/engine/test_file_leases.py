from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfumato.engine.file_leases import FileLeases

pytestmark = pytest.mark.anyio
HOLD = """
import asyncio, sys, time
from pathlib import Path
from sfumato.engine.file_leases import FileLeases

async def main():
    lease = await FileLeases(Path(sys.argv[1]), clock=time.monotonic).acquire("key")
    print("held" if lease else "refused", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def leases(directory: Path) -> FileLeases:
    return FileLeases(directory / "not there yet", clock=time.monotonic)


async def test_one_holds_it_and_the_others_do_not(tmp_path: Path) -> None:
    first, second = leases(tmp_path), leases(tmp_path)
    lease = await first.acquire("key")
    assert lease is not None
    assert await second.acquire("key") is None
    assert await first.acquire("key") is None, "also within the process"
    assert await second.acquire("another") is not None
    await lease.release()
    await lease.release()
    assert await second.acquire("key") is not None


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    for key in ("a", "b"):
        lease = await leases(tmp_path).acquire(key)
        assert lease is not None
        await lease.release()
    assert list((tmp_path / "not there yet").iterdir()) == []


async def test_waiting_ends_when_it_is_free(tmp_path: Path) -> None:
    lease = await leases(tmp_path).acquire("key")
    assert lease is not None
    waiting = asyncio.create_task(leases(tmp_path).wait("key", 10))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    await lease.release()
    assert await waiting


async def test_waiting_ends_with_its_time(tmp_path: Path) -> None:
    """The clock and the sleep are the caller's."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    lease = await leases(tmp_path).acquire("key")
    patient = FileLeases(tmp_path / "not there yet", clock=lambda: now, sleep=sleep)
    assert not await patient.wait("key", 5)
    assert now == pytest.approx(5)
    assert lease is not None
    await lease.release()
    assert await patient.wait("key", 0)
    assert await patient.wait("never held", 0)


async def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    """The kernel unlocks for the dead; the file that is left does not matter."""
    holder = subprocess.Popen(  # noqa: ASYNC220  # it is told to end by its pipe, also when this test fails
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    mine = FileLeases(tmp_path, clock=time.monotonic)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        assert await mine.acquire("key") is None
        assert not await mine.wait("key", 0)
        holder.kill()
        holder.wait()
        assert await mine.wait("key", 10)
        assert await mine.acquire("key") is not None
    finally:
        holder.kill()
        holder.communicate()


async def test_a_directory_that_cannot_be_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):  # noqa: PT011  # which one is the platform's choice
        await FileLeases(tmp_path / "file" / "below", clock=time.monotonic).acquire("key")


async def test_whoever_is_cancelled_while_it_takes_or_releases_holds_nothing(tmp_path: Path) -> None:
    """A cancellation falls between any two steps; the thread that locks or unlocks goes on."""
    own = leases(tmp_path)

    async def visit() -> None:
        lease = await own.acquire("key")
        assert lease is not None
        await lease.release()

    for ticks in range(40):
        visitor = asyncio.create_task(visit())
        for _ in range(ticks % 20):
            await asyncio.sleep(0)
        visitor.cancel()
        await asyncio.wait([visitor])
        await own.aclose()
        lease = await own.acquire("key")
        assert lease is not None, f"lost after {ticks} ticks"
        await lease.release()
    assert list((tmp_path / "not there yet").iterdir()) == []


async def test_many_processes_worth_of_takers_get_it_one_at_a_time(tmp_path: Path) -> None:
    """Taking, releasing and removing in a storm: never two holders."""
    holders = most = taken = 0

    async def taker() -> None:
        nonlocal holders, most, taken
        own = FileLeases(tmp_path, clock=time.monotonic)
        while taken < 200:
            lease = await own.acquire("key")
            if lease is None:
                await own.wait("key", 1)
                continue
            holders += 1
            most, taken = max(most, holders), taken + 1
            await asyncio.sleep(0)
            holders -= 1
            await lease.release()

    await asyncio.gather(*(taker() for _ in range(8)))
    assert most == 1
