"""SIGTERM: what was sent before it is answered, nothing else is begun, and the process ends in time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Server, serving
from tests.conftest import Emulator
from tests.support.gate import gated_emulator
from tests.support.raw_http import LOST, REFUSED, Answer, Connection, ask_once, image_request

pytestmark = pytest.mark.anyio
CLIENTS = 40
# Far more than the work of a test takes; a process that hangs is found by it.
LONG = 60


@pytest.fixture
def environment(emulator: Emulator, tmp_path: Path) -> dict[str, str]:
    return {
        "GEMINI_API_KEY": "test-key",
        "GEMINI_IMAGE_API_BASE": emulator.url,
        "GEMINI_IMAGE_CACHE_DIR": str(tmp_path / "cache"),
        "GEMINI_IMAGE_GRACE_SECONDS": "40",
    }


@contextmanager
def running(environment: dict[str, str], tmp_path: Path, *, workers: int = 1) -> Iterator[tuple[str, Server]]:
    log = tmp_path / "log"
    arguments = ("serve", "--no-auth", "--port", "0", "--workers", str(workers))
    with serving(*arguments, log=log, env=environment) as (url, process):
        yield url, process


async def ended(process: Server, seconds: float = LONG) -> int:
    return await asyncio.to_thread(process.wait, seconds)


def slow(name: str, seconds: float) -> bytes:
    return image_request(f"A lamp [[emulator:latency:{seconds};id={name}]]")


async def seen(emulator: Emulator, count: int) -> None:
    """Wait until upstream has been called so often."""
    while len(await asyncio.to_thread(emulator.calls)) < count:  # noqa: ASYNC110  # the server is elsewhere
        await asyncio.sleep(0.02)


async def _until_draining(connection: Connection) -> Answer:
    while (answer := await connection.get("/gemini-image/ready")).status == 200:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return answer


@asynccontextmanager
async def rendering(url: str, emulator: Emulator, *, seconds: float) -> AsyncIterator[asyncio.Task[Answer]]:
    """A request that upstream is at work on."""
    task = asyncio.create_task(ask_once(url, slow("rendering", seconds)))
    await seen(emulator, 1)
    try:
        yield task
    finally:
        task.cancel()


@pytest.mark.parametrize("workers", [1, 2])
async def test_under_load_every_request_that_was_sent_before_the_signal_is_answered(
    workers: int, environment: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    answers: list[Answer] = []

    async def client(number: int) -> None:
        for turn in range(1000):
            answers.append(await ask_once(url, slow(f"load-{number}-{turn}", 0.2)))
            if answers[-1].status != 200:
                return

    with running(environment, tmp_path, workers=workers) as (url, process):
        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        await seen(emulator, 2 * CLIENTS)
        signalled_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)
        assert await ended(process) == 0

    before = [answer.status for answer in answers if answer.sent_at is not None and answer.sent_at < signalled_at]
    assert len(before) >= 2 * CLIENTS
    assert set(before) == {200}
    # Whoever came later was served, told, or not let in; never cut off.
    assert {answer.status for answer in answers} <= {200, 503, REFUSED}


@pytest.mark.parametrize("workers", [1, 2])
async def test_connections_that_nobody_has_accepted_yet_are_served(
    workers: int, environment: dict[str, str], tmp_path: Path
) -> None:
    """The processes stand still while the clients connect and send: all of it waits in the kernel at the signal."""
    with running(environment, tmp_path, workers=workers) as (url, process), ExitStack() as stack:
        assert (await ask_once(url, image_request("A first lamp"))).status == 200
        group = [process.pid, *_children(process)]
        for pid in group:
            os.kill(pid, signal.SIGSTOP)
        connections = [stack.enter_context(await Connection.open(url)) for _ in range(CLIENTS)]
        for number, connection in enumerate(connections):
            await connection.send(image_request(f"Lamp {number}"))
        for pid in group:
            os.kill(pid, signal.SIGTERM)
        # None of them can end before its turn: who goes on first could end the others.
        for pid in reversed(group):
            os.kill(pid, signal.SIGCONT)
        answers = await asyncio.gather(*(_read(connection) for connection in connections))
        assert await ended(process) == 0

    assert Counter(answer.status for answer in answers) == {200: CLIENTS}


async def _read(connection: Connection) -> Answer:
    try:
        return await connection.read()
    except (OSError, asyncio.IncompleteReadError):
        return Answer(LOST)


async def test_open_connections_are_told_and_new_ones_are_refused_while_running_work_finishes(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with (
        gated_emulator() as (emulator, gate),
        running(environment | {"GEMINI_IMAGE_API_BASE": emulator.url}, tmp_path) as (url, process),
        await Connection.open(url) as used,
        await Connection.open(url) as unused,
        await Connection.open(url) as probe,
    ):
        assert (await used.get("/gemini-image/ready")).status == 200
        async with rendering(url, emulator, seconds=3) as work:
            process.send_signal(signal.SIGTERM)
            ready = await _until_draining(probe)
            told = [await connection.ask(image_request("Another lamp")) for connection in (used, unused)]
            refused = await ask_once(url, image_request("Yet another lamp"))
            assert not work.done()
            gate.open()
            assert (await work).status == 200
            assert await ended(process) == 0
        calls = await asyncio.to_thread(emulator.calls)

    assert (ready.status, ready.json(), ready.headers["connection"]) == (503, {"status": "draining"}, "close")
    for answer in told:
        assert answer.status == 503
        assert answer.json()["error"]["image_error"]["code"] == "IMG_OVERLOADED"
        assert answer.headers["connection"] == "close"
        assert int(answer.headers["retry-after"]) > 0
    assert refused.status == REFUSED
    assert len(calls) == 1


async def test_a_request_whose_body_is_still_on_its_way_at_the_signal_is_served(
    environment: dict[str, str], tmp_path: Path
) -> None:
    request = image_request("A lamp")
    with (
        running(environment, tmp_path) as (url, process),
        await Connection.open(url) as uploading,
        await Connection.open(url) as probe,
    ):
        await uploading.send(request[:-10])
        # Read in order: with this answer the request above has begun.
        assert (await probe.get("/gemini-image/health")).status == 200
        process.send_signal(signal.SIGTERM)
        assert (await _until_draining(probe)).status == 503
        assert (await uploading.ask(request[-10:])).status == 200
        assert await ended(process) == 0


async def test_an_idle_connection_does_not_keep_the_process(environment: dict[str, str], tmp_path: Path) -> None:
    environment["GEMINI_IMAGE_GRACE_SECONDS"] = "1000"
    with (
        running(environment, tmp_path) as (url, process),
        await Connection.open(url) as used,
        await Connection.open(url) as unused,
    ):
        assert (await used.get("/gemini-image/ready")).status == 200
        process.send_signal(signal.SIGTERM)
        assert await used.ended()
        assert await unused.ended()
        assert await ended(process) == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_picture_whose_client_left_is_finished_and_cached_before_the_end(
    workers: int, environment: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    request = slow("left", 2)
    with running(environment, tmp_path, workers=workers) as (url, process):
        with await Connection.open(url) as connection:
            await connection.send(request)
            await seen(emulator, 1)
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0

    with running(environment, tmp_path) as (url, _):
        again = await ask_once(url, request)
    assert (again.status, again.headers["x-gemini-image-cache"]) == (200, "hit")
    assert [call["status"] for call in emulator.calls()] == [200]


@pytest.mark.parametrize("workers", [1, 2])
async def test_with_too_short_a_grace_the_end_comes_in_time_and_the_client_is_told(
    workers: int, environment: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    environment["GEMINI_IMAGE_GRACE_SECONDS"] = "2"
    with running(environment, tmp_path, workers=workers) as (url, process):
        async with rendering(url, emulator, seconds=1000) as work:
            process.send_signal(signal.SIGTERM)
            answer = await work
            assert await ended(process) == 0

    assert answer.status == 503
    assert answer.json()["error"]["image_error"]["code"] == "IMG_OVERLOADED"


async def test_without_any_grace_it_ends_at_once(
    environment: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    environment["GEMINI_IMAGE_GRACE_SECONDS"] = "0"
    with running(environment, tmp_path) as (url, process):
        async with rendering(url, emulator, seconds=1000):
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(
    workers: int, second: signal.Signals, environment: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    environment["GEMINI_IMAGE_GRACE_SECONDS"] = "1000"
    with running(environment, tmp_path, workers=workers) as (url, process), await Connection.open(url) as probe:
        children = _children(process)
        async with rendering(url, emulator, seconds=1000):
            process.send_signal(signal.SIGTERM)
            assert (await _until_draining(probe)).status == 503
            process.send_signal(second)
            assert await ended(process) == 128 + second
            await _gone(children)


async def test_a_terminals_interrupt_reaches_the_group_and_still_loses_nothing(
    environment: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    with running(environment, tmp_path, workers=2) as (url, process):
        async with rendering(url, emulator, seconds=2) as work:
            for pid in (*_children(process), process.pid):
                os.kill(pid, signal.SIGINT)
            assert (await work).status == 200
            assert await ended(process) == 0


async def test_a_worker_that_dies_is_replaced(environment: dict[str, str], tmp_path: Path) -> None:
    with running(environment, tmp_path, workers=1 + 1) as (url, process):
        assert (await ask_once(url, image_request("A lamp"))).status == 200
        before = await _all_workers(process, 2)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        # Waits in the backlog until somebody takes it.
        assert (await ask_once(url, image_request("Another lamp"))).status == 200
        assert not set(_workers(process)) & set(before)
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_workers_drain_when_whoever_started_them_is_killed(
    environment: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    with running(environment, tmp_path, workers=2) as (url, process):
        workers = await _all_workers(process, 2)
        async with rendering(url, emulator, seconds=1) as work:
            process.kill()
            assert (await work).status == 200
            await _gone(workers)
        assert (await ask_once(url, image_request("A lamp"))).status == REFUSED


def _children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def _workers(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that serve, without the one that tracks resources."""
    return [pid for pid in _children(process) if b"spawn_main" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def _all_workers(process: subprocess.Popen[str], count: int) -> list[int]:
    """Wait until all workers have been started: the address is told before."""
    while len(workers := _workers(process)) < count:  # noqa: ASYNC110  # they are no children of ours
        await asyncio.sleep(0.02)
    return workers


async def _gone(pids: list[int]) -> None:
    while any(_runs(pid) for pid in pids):  # noqa: ASYNC110  # they are no children of ours
        await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
