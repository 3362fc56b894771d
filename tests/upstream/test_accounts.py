from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import (
    ConfigurationError,
    ImageError,
    InvalidParameterError,
    ModelNotFoundError,
    NetworkError,
    NoImageError,
    QuotaExhaustedError,
    RateLimitedError,
    SafetyBlockedError,
    ServiceUnavailableError,
    UpstreamAuthError,
)
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.cooling import ALL_MODELS, Notice

pytestmark = pytest.mark.anyio
GOOGLE = "https://generativelanguage.googleapis.com"
PRO = "gemini-3-pro-image"
FLASH = "gemini-2.5-flash-image"
LIMITED = RateLimitedError("m", reason="per_minute", retry_after=20.0)
SPENT = QuotaExhaustedError("m", reason="per_day", retry_after=3600.0)
UNPAID = QuotaExhaustedError("m", reason="billing")
LACKING = ModelNotFoundError("m", param="model", reason="unavailable")
REVOKED = UpstreamAuthError("m", reason="API_KEY_INVALID")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Board:
    """What another process would know."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.published: list[Notice] = []

    async def read(self) -> Sequence[Notice]:
        return self.notices

    async def publish(self, notice: Notice) -> None:
        self.published.append(notice)


def account(label: str, **values: Any) -> Account:
    return Account.at(label, f"key-{label}", GOOGLE, "v1beta", **values)


def pool(labels: str, clock: Clock | None = None, **options: Any) -> AccountPool:
    return pool_of([account(label) for label in labels], clock, **options)


def pool_of(accounts: Sequence[Account], clock: Clock | None = None, **options: Any) -> AccountPool:
    clock = clock or Clock()
    return AccountPool(accounts, **{"clock": clock, "wall_clock": clock, "trial_seconds": 0.0, **options})


async def use(accounts: AccountPool, error: ImageError | None = None, *, model: str = PRO) -> str:
    """Make one call that ends with *error*; return whose it was."""
    taken = await accounts.acquire(model)
    accounts.release(taken)
    await accounts.report(taken, model, error)
    return taken.label


async def refuse(accounts: AccountPool, label: str, error: ImageError, *, model: str = PRO) -> None:
    await accounts.report(account(label), model, error)


async def refused(accounts: AccountPool, model: str = PRO) -> ImageError:
    with pytest.raises(ImageError) as caught:
        await accounts.acquire(model)
    told = accounts.exhausted(model)
    assert told is not None
    assert (type(told), told.reason, told.retry_after) == (
        type(caught.value),
        caught.value.reason,
        caught.value.retry_after,
    )
    assert not accounts.has_other(model, ())
    return caught.value


def states(accounts: AccountPool) -> dict[str, str]:
    return {state.label: state.state for state in accounts.states()}


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (GOOGLE, (GOOGLE, "v1beta")),
        (f"{GOOGLE}/", (GOOGLE, "v1beta")),
        (f"{GOOGLE}/v1", (GOOGLE, "v1")),
        (f"{GOOGLE}/v1beta/", (GOOGLE, "v1beta")),
        (f"{GOOGLE}/v1beta1", (GOOGLE, "v1beta1")),
        ("http://127.0.0.1:8081/gemini/v1alpha", ("http://127.0.0.1:8081/gemini", "v1alpha")),
        ("https://host/v1/proxy", ("https://host/v1/proxy", "v1beta")),
        ("https://v1", ("https://v1", "v1beta")),
        ("https://host/vision", ("https://host/vision", "v1beta")),
    ],
)
def test_the_base_may_name_the_version(base: str, expected: tuple[str, str]) -> None:
    made = Account.at("a", "k", base, "v1beta")
    assert (made.base, made.version) == expected


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "a\r\nx-evil: 1", "schlüssel", "\ud800", "a\x00"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(ConfigurationError, match="account 'mine'") as caught:
        Account.at("mine", key, GOOGLE, "v1")
    assert key.strip() == "" or key not in caught.value.message


def test_the_key_is_not_shown() -> None:
    assert "key-a" not in repr(account("a"))
    assert "key-a" not in repr([account("a")])
    assert "label='a'" in repr(account("a"))


async def test_accounts_take_turns() -> None:
    accounts = pool("abc")
    assert "".join([await use(accounts) for _ in range(7)]) == "abcabca"


async def test_the_least_busy_is_taken() -> None:
    accounts = pool("abc")
    held = [await accounts.acquire(PRO) for _ in range(3)]
    assert [one.label for one in held] == ["a", "b", "c"]
    accounts.release(held[1])
    assert (await accounts.acquire(PRO)).label == "b"
    # All equally busy again: the one that waited longest is next.
    assert [(await accounts.acquire(PRO)).label for _ in range(3)] == ["a", "c", "b"]


async def test_work_is_shared_by_weight_whether_calls_overlap_or_not() -> None:
    accounts = pool_of([account("a", weight=2), account("b"), account("c", weight=0.5)])
    one_by_one = Counter([await use(accounts) for _ in range(70)])
    assert one_by_one == {"a": 40, "b": 20, "c": 10}
    at_once = Counter([(await accounts.acquire(PRO)).label for _ in range(70)])
    assert at_once == {"a": 40, "b": 20, "c": 10}


async def test_nobody_is_owed_for_its_rest() -> None:
    clock = Clock()
    accounts = pool("ab", clock)
    await refuse(accounts, "a", LIMITED)
    assert {await use(accounts) for _ in range(50)} == {"b"}
    clock.now += 20.0
    assert Counter([await use(accounts) for _ in range(10)]) == {"a": 5, "b": 5}


async def test_accounts_that_were_tried_are_passed_over_while_there_are_others() -> None:
    accounts = pool("ab")
    tried = [await accounts.acquire(PRO)]
    accounts.release(tried[0])
    assert accounts.has_other(PRO, tried)
    other = await accounts.acquire(PRO, tried=tried)
    assert other.label == "b"
    tried.append(other)
    assert not accounts.has_other(PRO, tried)
    assert (await accounts.acquire(PRO, tried=tried)).label == "a"


async def test_a_busy_account_that_was_not_tried_beats_an_idle_one_that_was() -> None:
    accounts = pool("ab")
    tried = [await accounts.acquire(PRO)]
    accounts.release(tried[0])
    await accounts.acquire(PRO, tried=tried)
    assert (await accounts.acquire(PRO, tried=tried)).label == "b"


async def test_an_account_that_rests_is_no_other_account() -> None:
    accounts = pool("abc")
    tried = [await accounts.acquire(PRO)]
    await refuse(accounts, "b", LIMITED)
    await refuse(accounts, "c", SPENT)
    assert not accounts.has_other(PRO, tried)
    assert accounts.has_other(FLASH, tried)
    assert (await accounts.acquire(PRO, tried=tried)).label == "a"


async def test_without_accounts_the_operator_is_told() -> None:
    assert len(pool("")) == 0
    assert len(pool("abc")) == 3
    assert not pool("").has_other(PRO, ())
    assert isinstance(pool("").exhausted(PRO), ConfigurationError)
    with pytest.raises(ConfigurationError, match="GEMINI_API_KEY"):
        await pool("").acquire(PRO)


async def test_an_account_rests_for_one_model_for_as_long_as_google_says() -> None:
    clock = Clock()
    accounts = pool("ab", clock)
    await refuse(accounts, "a", LIMITED)
    assert {await use(accounts) for _ in range(5)} == {"b"}
    assert {await use(accounts, model=FLASH) for _ in range(5)} == {"a", "b"}
    clock.now += 19.9
    assert await use(accounts) == "b"
    clock.now += 0.2
    assert {await use(accounts) for _ in range(5)} == {"a", "b"}


async def test_when_all_rest_the_soonest_is_told_at_once() -> None:
    clock = Clock()
    accounts = pool("abc", clock)
    await refuse(accounts, "a", LIMITED)
    await refuse(accounts, "b", SPENT)
    await refuse(accounts, "c", RateLimitedError("m", reason="shared_capacity", retry_after=45.5))
    error = await refused(accounts)
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 20.0
    clock.now += 12.5
    assert (await refused(accounts)).retry_after == 8.0


@pytest.mark.parametrize(
    ("errors", "kind", "reason", "retry_after"),
    [
        ((LIMITED, SPENT), RateLimitedError, "per_minute", 20.0),
        ((SPENT, LIMITED), RateLimitedError, "per_minute", 20.0),
        ((SPENT, UNPAID), QuotaExhaustedError, "per_day", 3600.0),
        ((UNPAID, UNPAID), QuotaExhaustedError, "billing", None),
        ((UNPAID, REVOKED), QuotaExhaustedError, "billing", None),
        ((LIMITED, REVOKED), RateLimitedError, "per_minute", 20.0),
        ((REVOKED, REVOKED), UpstreamAuthError, "all_parked", None),
        # A day quota that ends sooner than the minute's: the class is the rate limit's, the time the soonest.
        ((QuotaExhaustedError("m", retry_after=5), LIMITED), RateLimitedError, "per_minute", 5.0),
    ],
)
async def test_the_error_of_an_exhausted_pool_tells_why_and_until_when(
    errors: tuple[ImageError, ...], kind: type[ImageError], reason: str, retry_after: float | None
) -> None:
    accounts = pool("ab")
    for label, error in zip("ab", errors, strict=True):
        await refuse(accounts, label, error)
    told = await refused(accounts)
    assert (type(told), told.reason, told.retry_after) == (kind, reason, retry_after)
    assert "key-" not in told.message


async def test_refused_credentials_park_the_account_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    accounts = pool("ab", clock)
    with caplog.at_level(logging.INFO, "sfumato"):
        for _ in range(5):
            await refuse(accounts, "a", REVOKED)
        assert {await use(accounts, model=model) for model in (PRO, FLASH) for _ in range(3)} == {"b"}
        clock.now += 600.0
        # The probe: it fails, and nobody is told a second time.
        assert await use(accounts, REVOKED) == "a"
        clock.now += 60.0
        assert {await use(accounts) for _ in range(3)} == {"b"}
    (line,) = caplog.records
    assert (line.name, line.levelno) == ("sfumato", logging.ERROR)
    assert "'a'" in line.getMessage()
    assert "API_KEY_INVALID" in line.getMessage()
    assert "key-a" not in line.getMessage()
    assert states(accounts) == {"a": "parked", "b": "ready"}


async def test_a_parked_account_is_probed_by_one_request_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    accounts = pool("ab", clock)
    await refuse(accounts, "a", REVOKED)
    clock.now += 600.0
    assert states(accounts)["a"] == "parked"
    held = [await accounts.acquire(PRO) for _ in range(4)]
    assert Counter(one.label for one in held) == {"a": 1, "b": 3}
    # The others wait for the probe, unless it ends without a word.
    clock.now += 59.0
    assert (await accounts.acquire(FLASH)).label == "b"
    caplog.clear()
    await accounts.report(account("a"), PRO, None)
    assert states(accounts)["a"] == "ready"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert (await accounts.acquire(FLASH)).label == "a"


async def test_a_probe_that_ends_without_a_word_frees_the_next_one() -> None:
    clock = Clock()
    accounts = pool("a", clock)
    await refuse(accounts, "a", REVOKED)
    clock.now += 600.0
    accounts.release(await accounts.acquire(PRO))
    assert isinstance(await refused(accounts), UpstreamAuthError)
    clock.now += 60.0
    # One that learned nothing frees it at once, and the next one is a single one again.
    for error in (ServiceUnavailableError("m"), InvalidParameterError("m")):
        taken = await accounts.acquire(PRO)
        assert isinstance(await refused(accounts), UpstreamAuthError)
        await accounts.report(taken, PRO, error)
    assert states(accounts) == {"a": "parked"}
    await accounts.report(await accounts.acquire(PRO), PRO, NoImageError("m"))
    assert accounts.exhausted(PRO) is None


async def test_a_success_that_began_before_the_refusal_ends_no_rest() -> None:
    accounts = pool("a")
    await accounts.acquire(PRO)
    await refuse(accounts, "a", LIMITED)
    await accounts.report(account("a"), PRO, None)
    assert isinstance(await refused(accounts), RateLimitedError)


@pytest.mark.parametrize(
    "error", [ServiceUnavailableError("m"), NetworkError("m"), InvalidParameterError("m"), SafetyBlockedError("m")]
)
async def test_other_errors_say_nothing_of_the_account(error: ImageError) -> None:
    accounts = pool("a")
    await refuse(accounts, "a", error)
    assert accounts.exhausted(PRO) is None
    assert states(accounts) == {"a": "ready"}


async def test_an_account_of_the_callers_own_is_not_the_pools() -> None:
    accounts = pool("a")
    await refuse(accounts, "own", REVOKED)
    assert states(accounts) == {"a": "ready"}


async def test_a_budget_of_calls_per_minute_avoids_the_429() -> None:
    clock = Clock()
    accounts = pool_of([account("a", rpm=2), account("b", rpm=1)], clock)
    assert sorted([await use(accounts) for _ in range(3)]) == ["a", "a", "b"]
    error = await refused(accounts)
    assert isinstance(error, RateLimitedError)
    assert (error.reason, error.retry_after) == ("per_minute", 60.0)
    # Another model has a budget of its own.
    assert accounts.exhausted(FLASH) is None
    clock.now += 59.9
    assert (await refused(accounts)).retry_after == 1.0
    clock.now += 0.1
    assert sorted([await use(accounts) for _ in range(3)]) == ["a", "a", "b"]
    (a, b) = accounts.states()
    assert (a.rpm, a.used_this_minute, b.used_this_minute) == (2, {PRO: 2}, {PRO: 1})


async def test_states_tell_everything_but_keys() -> None:
    clock = Clock()
    accounts = pool_of([account("a", weight=2.0, rpm=60), account("b"), account("c")], clock)
    await accounts.acquire(PRO)
    await refuse(accounts, "b", LIMITED)
    await refuse(accounts, "b", SPENT, model=FLASH)
    await refuse(accounts, "c", REVOKED)
    clock.now += 5.0
    a, b, c = accounts.states()
    assert (a.label, a.backend, a.state, a.running, a.weight, a.rpm) == ("a", "gemini", "ready", 1, 2.0, 60)
    assert [(row.model, row.reason, row.seconds_left) for row in b.cooling] == [
        (FLASH, "per_day", 3595.0),
        (PRO, "per_minute", 15.0),
    ]
    assert (b.state, c.state, c.cooling) == ("cooling", "parked", ())
    assert c.parked is not None
    assert (c.parked.reason, c.parked.seconds_left) == ("credentials", 595.0)
    assert "key-" not in repr((a, b, c))


async def test_what_one_process_learned_another_does_not_relearn() -> None:
    clock, first, second = Clock(), Board(), Board()
    one, other = pool("ab", clock, board=first), pool("ab", clock, board=second)
    await refuse(one, "a", LIMITED)
    await refuse(one, "b", REVOKED)
    assert [(notice.model, notice.reason, notice.seconds) for notice in first.published] == [
        (PRO, "per_minute", 20.0),
        (ALL_MODELS, "credentials", 600.0),
    ]
    assert {notice.identity for notice in first.published} == {account("a").identity, account("b").identity}
    second.notices = first.published
    assert (await refused(other)).retry_after == 20.0
    assert states(other) == {"a": "cooling", "b": "parked"}
    assert await use(other, None, model=FLASH) == "a"
    assert second.published == []


async def test_nothing_is_published_that_is_known() -> None:
    board = Board()
    accounts = pool("a", board=board)
    for error in (LIMITED, LIMITED, None, NetworkError("m"), RateLimitedError("m", reason="per_minute", retry_after=5)):
        await accounts.report(account("a"), PRO, error)
    assert len(board.published) == 1


def test_a_new_key_under_an_old_label_is_another_account() -> None:
    first, second = (Account.at("a", key, GOOGLE, "v1") for key in ("key-1", "key-2"))
    assert first.identity != second.identity
    assert first.identity == Account.at("renamed", "key-1", GOOGLE, "v1beta", weight=2).identity
    assert first.identity != Account.at("a", "key-1", "https://other.example", "v1").identity
    assert "key-1" not in first.identity


async def test_a_burst_sends_one_call_ahead_to_each_account() -> None:
    """A refusal comes at once and a picture late: of three accounts two refuse, and two calls are wasted."""
    faults = {"a": SPENT, "b": LIMITED, "c": None}
    accounts = pool("abc", trial_seconds=5.0)
    calls: Counter[str] = Counter()

    async def request() -> str:
        tried: list[Account] = []
        while True:
            taken = await accounts.acquire(PRO, tried=tried)
            tried.append(taken)
            calls[taken.label] += 1
            await asyncio.sleep(0)
            accounts.release(taken)
            await accounts.report(taken, PRO, faults[taken.label])
            if faults[taken.label] is None:
                return taken.label

    answers = await asyncio.gather(*(request() for _ in range(200)))
    assert set(answers) == {"c"}
    assert calls == {"a": 1, "b": 1, "c": 200}


async def test_a_trial_that_lasts_is_passed() -> None:
    clock = Clock()
    accounts = pool("ab", clock, trial_seconds=0.01)
    # The third call waits for the first one's trial; the second one's is not over yet.
    assert [(await accounts.acquire(PRO)).label for _ in range(4)] == ["a", "b", "a", "a"]
    clock.now += 1.0
    assert [(await accounts.acquire(PRO)).label for _ in range(2)] == ["b", "b"]


async def test_one_account_has_no_trials() -> None:
    accounts = pool("a", trial_seconds=1e6)
    assert [(await accounts.acquire(PRO)).label for _ in range(3)] == ["a", "a", "a"]


async def test_a_request_that_failed_once_goes_where_it_works() -> None:
    accounts = pool("abc")
    assert [await use(accounts, error) for error in (None, LIMITED, None)] == ["a", "b", "c"]
    tried = [account("a")]
    clock = accounts._clock
    assert isinstance(clock, Clock)
    clock.now += 20.0
    # Account b was refused last; it is first in the line, but not for a second attempt.
    held = [(await accounts.acquire(PRO, tried=tried)).label for _ in range(2)]
    assert held == ["c", "c"]


async def test_an_account_without_the_model_is_left_alone_for_it_alone() -> None:
    clock = Clock()
    accounts = pool("ab", clock)
    await refuse(accounts, "a", LACKING)
    assert [await use(accounts) for _ in range(4)] == ["b"] * 4
    assert await use(accounts, model=FLASH) == "a"
    await refuse(accounts, "b", LIMITED)
    assert isinstance(await refused(accounts), RateLimitedError)
    clock.now += 600
    assert {await use(accounts) for _ in range(2)} == {"a", "b"}


async def test_where_no_account_has_the_model_google_is_asked_and_nobody_else_tried() -> None:
    """Its answer is what the client is told; by one of those that may be asked at all."""
    accounts = pool("abc", trial_seconds=600.0)
    await refuse(accounts, "a", REVOKED)
    for label in "bc":
        await refuse(accounts, label, LACKING)
    assert accounts.exhausted(PRO) is None
    assert not accounts.has_other(PRO, ())
    async with asyncio.timeout(60):
        labels = Counter([(await accounts.acquire(PRO)).label for _ in range(4)])
    assert labels == {"b": 2, "c": 2}
    await accounts.report(account("b"), PRO, None)
    assert await use(accounts) == "b", "it has it now"


async def test_calls_that_ask_for_googles_answer_count_as_any_other() -> None:
    accounts = pool_of([account("a", rpm=2)])
    for _ in range(2):
        await use(accounts, LACKING)
    assert (await refused(accounts)).retry_after == 60.0


EVENTS = st.one_of(
    st.tuples(st.just("call"), st.sampled_from([PRO, FLASH]), st.integers(0, 8)),
    st.tuples(st.just("end"), st.integers(0, 20), st.integers(0, 8)),
    st.tuples(st.just("wait"), st.floats(0, 700), st.just(0)),
)
OUTCOMES: list[ImageError | None] = [
    None,
    LIMITED,
    SPENT,
    UNPAID,
    LACKING,
    REVOKED,
    RateLimitedError("m", reason="shared_capacity"),
    NetworkError("m"),
    NoImageError("m"),
]


@given(st.lists(EVENTS, max_size=60))
@settings(max_examples=150)
def test_whatever_happens_the_pool_keeps_its_word(events: list[tuple[str, Any, int]]) -> None:
    asyncio.run(_live_through(events))


async def _live_through(events: list[tuple[str, Any, int]]) -> None:
    clock = Clock()
    accounts = pool_of([account("a"), account("b", weight=3, rpm=2), account("c")], clock)
    held: list[tuple[Account, str]] = []
    for kind, value, number in events:
        if kind == "wait":
            clock.now += value
        elif kind == "end" and held:
            taken, model = held.pop(value % len(held))
            accounts.release(taken)
            await accounts.report(taken, model, OUTCOMES[number])
        elif kind == "call":
            told = accounts.exhausted(value)
            # Where no account has the model there is none to go on with, and yet one to ask.
            assert told is None or not accounts.has_other(value, ())
            if told is None:
                held.append((await accounts.acquire(value), value))
            else:
                with pytest.raises(type(told)):
                    await accounts.acquire(value)
            if told is not None and told.upstream_delay is not None:
                # Then it is free: nobody waits in vain.
                assert told.upstream_delay > 0
                clock.now += told.upstream_delay + 1e-6
                assert accounts.exhausted(value) is None
        busy = Counter(one.label for one, _ in held)
        for state in accounts.states():
            assert state.running == busy[state.label]
            assert all(0 < row.seconds_left <= 86_400 for row in state.cooling)
            assert (state.state == "parked") == (state.parked is not None)
            assert state.rpm is None or all(used <= state.rpm for used in state.used_this_minute.values())


def test_an_account_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        account("a").base = "https://evil.example"  # type: ignore[misc]
