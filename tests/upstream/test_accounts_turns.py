"""Which of several accounts that work is next: weights, and faults that may pass."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import (
    ImageError,
    NetworkError,
    NoImageError,
    RateLimitedError,
    SafetyBlockedError,
    ServiceUnavailableError,
    UpstreamFailureError,
)
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.doubts import Doubts

pytestmark = pytest.mark.anyio
PRO = "gemini-3-pro-image"
FAULT = NetworkError("m")


class Clock:
    """Time that passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def account(label: str, weight: float = 1.0) -> Account:
    return Account.at(label, f"key-{label}", "http://upstream.test", "v1", weight=weight)


def pool(weights: Mapping[str, float], clock: Clock) -> AccountPool:
    return AccountPool([account(*row) for row in weights.items()], clock=clock, wall_clock=clock, trial_seconds=0.0)


async def end(accounts: AccountPool, taken: Account, error: ImageError | None = None) -> None:
    accounts.release(taken)
    await accounts.report(taken, PRO, error)


async def use(accounts: AccountPool, error: ImageError | None = None, *, tried: Sequence[Account] = ()) -> str:
    taken = await accounts.acquire(PRO, tried=tried)
    await end(accounts, taken, error)
    return taken.label


# --- weights ---


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 4, 7, 8, 16])
@pytest.mark.parametrize("weights", [{"a": 3, "b": 1}, {"a": 9, "b": 1}, {"a": 100, "b": 1}, {"a": 1, "b": 1, "c": 1}])
async def test_weights_hold_however_many_calls_run_at_a_time(weights: Mapping[str, float], at_a_time: int) -> None:
    clock, chance, calls = Clock(), random.Random(1), 3000
    accounts = pool(weights, clock)
    running: list[tuple[float, int, Account]] = []
    seen: Counter[str] = Counter()
    for number in range(calls):
        if len(running) == at_a_time:
            clock.now, _, done = heapq.heappop(running)
            await end(accounts, done)
        taken = await accounts.acquire(PRO)
        seen[taken.label] += 1
        # Pictures take 20 to 140 s.
        heapq.heappush(running, (clock.now + chance.uniform(20, 140), number, taken))
    whole = sum(weights.values())
    assert {label: count / calls for label, count in seen.items()} == pytest.approx(
        {label: weight / whole for label, weight in weights.items()}, abs=0.02
    )


async def test_an_account_that_hangs_holds_no_more_calls_than_its_share() -> None:
    accounts = pool({"hangs": 3, "ok": 1}, Clock())
    for _ in range(50):
        if (taken := await accounts.acquire(PRO)).label == "ok":
            await end(accounts, taken)
    assert {state.label: state.running for state in accounts.states()} == {"hangs": 3, "ok": 0}


async def test_the_share_of_those_who_rest_goes_to_the_others_by_weight() -> None:
    clock = Clock()
    accounts = pool({"rests": 6, "a": 3, "b": 1}, clock)
    await accounts.report(account("rests", 6), PRO, RateLimitedError("m", retry_after=600))
    running: deque[Account] = deque()
    seen: Counter[str] = Counter()
    for _ in range(400):
        if len(running) == 2:
            await end(accounts, running.popleft())
        running.append(await accounts.acquire(PRO))
        seen[running[-1].label] += 1
    assert seen == {"a": 300, "b": 100}


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=5), st.lists(st.integers(-1, 9), max_size=60))
@settings(max_examples=150)
async def test_whatever_the_weights_every_call_is_given_to_somebody(weights: list[float], events: list[int]) -> None:
    accounts = pool({str(place): weight for place, weight in enumerate(weights)}, Clock())
    held: list[Account] = []
    for event in events:
        if event >= 0 and held:
            await end(accounts, held.pop(event % len(held)))
        else:
            held.append(await accounts.acquire(PRO))
    assert {state.label: state.running for state in accounts.states()} == {
        str(place): [one.label for one in held].count(str(place)) for place in range(len(weights))
    }


# --- faults that may pass ---


async def test_a_dead_account_is_not_every_request_s_first_choice() -> None:
    clock = Clock()
    accounts = pool({"dead": 1, "ok": 1}, clock)
    wasted = 0
    for _ in range(100):
        tried: list[Account] = []
        while (taken := await accounts.acquire(PRO, tried=tried)).label == "dead":
            clock.now += 0.5
            wasted += 1
            tried.append(taken)
            await end(accounts, taken, FAULT)
        clock.now += 1.0
        await end(accounts, taken)
    # 1, 2, 4, 8, 16, 32 seconds: then once a minute.
    assert wasted <= 8


@pytest.mark.parametrize("error", [FAULT, ServiceUnavailableError("m"), UpstreamFailureError("m")])
async def test_after_a_fault_others_go_first_and_one_call_goes_ahead(error: ImageError) -> None:
    clock = Clock()
    accounts = pool({"a": 1, "b": 1}, clock)
    assert await use(accounts, error) == "a"
    assert [await use(accounts) for _ in range(4)] == ["b"] * 4
    clock.now += 1.0
    first = await accounts.acquire(PRO)
    others = [await accounts.acquire(PRO) for _ in range(5)]
    assert (first.label, {one.label for one in others}) == ("a", {"b"})
    await end(accounts, first)
    assert (await accounts.acquire(PRO)).label == "a"


@pytest.mark.parametrize("answer", [None, NoImageError("m"), SafetyBlockedError("m")])
async def test_an_answer_ends_the_doubt(answer: ImageError | None) -> None:
    clock = Clock()
    accounts = pool({"a": 1, "b": 1}, clock)
    held = [taken for _ in range(4) if (taken := await accounts.acquire(PRO)).label == "a"]
    await end(accounts, held[0], FAULT)
    assert [await use(accounts) for _ in range(3)] == ["b"] * 3
    await end(accounts, held[1], answer)
    assert await use(accounts) == "a"


@pytest.mark.parametrize("error", [UpstreamFailureError("m", retryable=False), RateLimitedError("m", retry_after=1)])
async def test_what_is_no_passing_fault_makes_no_doubt(error: ImageError) -> None:
    clock = Clock()
    accounts = pool({"a": 1, "b": 1}, clock)
    assert await use(accounts, error) == "a"
    clock.now += 1.0
    assert {await use(accounts) for _ in range(2)} == {"a", "b"}


async def test_nobody_is_left_out_where_all_are_in_doubt() -> None:
    accounts = pool({"a": 1, "b": 1}, Clock())
    assert "".join([await use(accounts, FAULT) for _ in range(6)]) == "ababab"
    assert accounts.exhausted(PRO) is None
    assert accounts.has_other(PRO, ())
    assert {state.state for state in accounts.states()} == {"ready"}


async def test_a_second_attempt_goes_to_the_other_account_though_it_is_in_doubt() -> None:
    accounts = pool({"a": 1, "b": 1}, Clock())
    assert await use(accounts, FAULT) == "a"
    assert await use(accounts, tried=[account("b")]) == "a"


def test_pauses_double_up_to_a_minute_and_calls_side_by_side_count_once() -> None:
    clock = Clock()
    doubts = Doubts[str](clock)
    seen = []
    for _ in range(8):
        began = clock.now
        for _ in range(10):
            doubts.add("a")
        while doubts.holds("a"):
            clock.now += 0.5
        seen.append(clock.now - began)
    assert seen == [1, 2, 4, 8, 16, 32, 60, 60]
    doubts.clear("a")
    doubts.add("a")
    clock.now += 1.0
    assert not doubts.holds("a")


def test_a_call_that_goes_ahead_and_ends_untold_frees_the_next_one() -> None:
    clock = Clock()
    doubts = Doubts[str](clock)
    doubts.begin("a")
    assert not doubts.holds("a")
    doubts.add("a")
    clock.now += 1.0
    doubts.begin("a")
    clock.now += 14.9
    assert doubts.holds("a")
    clock.now += 0.1
    assert not doubts.holds("a")
