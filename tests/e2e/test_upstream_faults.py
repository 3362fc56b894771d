"""What a network and a broken server do to Gemini's answers: told apart, repeated where it helps, and nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from sfumato.errors import DeadlineError, ImageError, NetworkError, UpstreamFailureError
from tests.conftest import Emulator, PassBy
from tests.support.clients import Bench, bench
from tests.support.fault_proxy import Break, FaultProxy, fault_proxy

pytestmark = pytest.mark.anyio
EACH = 25
# Below the megabytes of a grainy picture, above everything else.
MAX_RESPONSE_BYTES = 512 * 1024
STALL_SECONDS = 30.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class Case(NamedTuple):
    """A fault, as the network (`fault`) or the server (`switch`) commits it.

    Attributes:
        repeated: Whether it is tried again here.
    """

    fault: Break | None
    switch: str
    error: type[ImageError]
    repeated: bool


CASES = {
    "truncated below its length": Case(None, "truncated", NetworkError, repeated=True),
    "truncated between chunks": Case(Break("close", after_bytes=30_000), "", NetworkError, repeated=True),
    "truncated in its head": Case(Break("close", after_bytes=20), "", NetworkError, repeated=True),
    "truncated JSON of the right length": Case(
        Break("close", instead=HEAD + b'content-length: 12\r\n\r\n{"candidates'),
        "",
        UpstreamFailureError,
        repeated=False,
    ),
    "no answer": Case(Break("close"), "", NetworkError, repeated=True),
    "an empty body": Case(None, "empty-body", UpstreamFailureError, repeated=False),
    "an empty body, closed": Case(
        Break("close", instead=HEAD + b"connection: close\r\n\r\n"), "", UpstreamFailureError, repeated=False
    ),
    "reset before the answer": Case(Break("reset"), "", NetworkError, repeated=True),
    "reset in the answer": Case(Break("reset", after_bytes=30_000), "", NetworkError, repeated=True),
    "reset by the server": Case(None, "reset", NetworkError, repeated=True),
    "stalled before the answer": Case(Break("stall"), "", DeadlineError, repeated=True),
    "stalled in its head": Case(Break("stall", after_bytes=20), "", DeadlineError, repeated=True),
    "stalled in the answer": Case(Break("stall", after_bytes=30_000), "", DeadlineError, repeated=True),
    "stalled by the server": Case(None, "stall", DeadlineError, repeated=True),
    "not HTTP": Case(Break("close", instead=b"SSH-2.0-OpenSSH_9.7\r\n"), "", NetworkError, repeated=True),
    "a malformed chunk": Case(
        Break("close", instead=HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n"), "", NetworkError, repeated=True
    ),
    "not JSON": Case(None, "garbage", UpstreamFailureError, repeated=False),
    "a page": Case(None, "html", UpstreamFailureError, repeated=False),
    "oversized": Case(None, "grain", UpstreamFailureError, repeated=False),
    "endless": Case(
        Break("stall", instead=HEAD + b"connection: close\r\n\r\n" + b" " * (MAX_RESPONSE_BYTES + 1)),
        "",
        UpstreamFailureError,
        repeated=False,
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@asynccontextmanager
async def faulty(emulator: Emulator, *, max_attempts: int = 3) -> AsyncIterator[tuple[FaultProxy, Bench]]:
    port = urlsplit(emulator.url).port
    assert port
    async with (
        fault_proxy(port) as proxy,
        bench(
            f"http://127.0.0.1:{proxy.port}",
            max_attempts=max_attempts,
            max_response_bytes=MAX_RESPONSE_BYTES,
            timeout_seconds=100 * STALL_SECONDS,
            # Of an attempt whose answer never begins; one that pauses is told earlier.
            attempt_timeout_seconds=2 * STALL_SECONDS,
            stall_seconds=STALL_SECONDS,
        ) as made,
    ):
        yield proxy, made


def prompt(case: Case, name: str, *, times: int) -> str:
    return f"A lamp, {name} [[emulator:{case.switch};times={times};id={name}]]" if case.switch else f"A lamp, {name}"


@asynccontextmanager
async def stalls_ended(
    case: Case, proxy: FaultProxy, emulator: Emulator, pass_by: PassBy, *, times: int, together: int = 1
) -> AsyncIterator[None]:
    """Let the bound pass as often as *together* answers have stalled, where nothing else ends them."""

    async def seen() -> int:
        return proxy.stalled if case.fault else len(await asyncio.to_thread(emulator.calls))

    before = await seen()

    async def end() -> None:
        for number in range(1, times + 1):
            while await seen() - before < number * together:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            pass_by(2 * STALL_SECONDS)

    ending = asyncio.create_task(end() if case.error is DeadlineError else asyncio.sleep(0))
    try:
        yield
        async with asyncio.timeout(60 * STALL_SECONDS):
            await ending
    finally:
        ending.cancel()


async def test_a_fault_that_stays_is_told_as_what_it_is(case: Case, emulator: Emulator, pass_by: PassBy) -> None:
    async with faulty(emulator) as (proxy, made), stalls_ended(case, proxy, emulator, pass_by, times=3):
        if case.fault:
            proxy.breaks.extend([case.fault] * 3)
        with pytest.raises(ImageError) as raised:
            await made.make(prompt(case, "stays", times=3))

    attempts = 3 if case.repeated else 1
    assert type(raised.value) is case.error
    assert raised.value.attempts == attempts
    assert len(emulator.calls()) == attempts
    assert [code for code, _ in made.seen.retries] == [case.error.code] * (attempts - 1)
    # Whoever is told of a fault that was met again and again, or stays, is not asked to meet it once more.
    assert raised.value.worth_repeating is (not case.repeated and raised.value.retryable)


async def test_a_fault_that_passes_is_seen_only_where_repeating_may_help(
    case: Case, emulator: Emulator, pass_by: PassBy
) -> None:
    async with faulty(emulator) as (proxy, made):
        if case.fault:
            proxy.breaks.append(case.fault)
        async with stalls_ended(case, proxy, emulator, pass_by, times=1):
            if case.repeated:
                assert (await made.make(prompt(case, "passes", times=1))).retries == 1
            else:
                with pytest.raises(case.error):
                    await made.make(prompt(case, "passes", times=1))
        # The pool is none the worse: what comes next is answered at the first attempt.
        assert (await made.make("Another lamp")).retries == 0


async def test_after_hundreds_of_faults_nothing_is_left_behind(emulator: Emulator, pass_by: PassBy) -> None:
    tasks_before, files_before = len(asyncio.all_tasks()), open_files()
    async with faulty(emulator, max_attempts=1) as (proxy, made):
        assert (await made.make("A first lamp")).images
        tasks_at_rest = clients_tasks(proxy)
        for name, case in CASES.items():
            if case.fault:
                proxy.breaks.extend([case.fault] * EACH)
            asked = (made.make(prompt(case, f"{name} {number}", times=1)) for number in range(EACH))
            async with stalls_ended(case, proxy, emulator, pass_by, times=1, together=EACH):
                outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {case.error}
        answers = await asyncio.gather(*(made.make(f"Lamp {number}") for number in range(EACH)))
        assert [answer.retries for answer in answers] == [0] * EACH
        # What is left are the connections that wait for the next request.
        await settled(lambda: proxy.connected <= EACH)
        await settled(lambda: clients_tasks(proxy) == tasks_at_rest)
    await settled(lambda: len(asyncio.all_tasks()) == tasks_before)
    await settled(lambda: open_files() <= files_before)


def clients_tasks(proxy: FaultProxy) -> int:
    """Return how many tasks run beside the proxy's three per connection."""
    return len(asyncio.all_tasks()) - 3 * proxy.connected


def open_files() -> int:
    """Return how many files and sockets this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


async def settled(holds: Callable[[], bool]) -> None:
    """Wait until something holds that the other side of a connection has a part in."""
    for _ in range(3000):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not come to rest")
