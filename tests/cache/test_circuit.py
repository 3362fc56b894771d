from __future__ import annotations

import asyncio
import contextlib

import pytest

from sfumato.cache.circuit import Circuit, CircuitOpenError
from sfumato.cache.store import StoreFullError, StoreUnavailableError
from tests.cache.contract import Clock


class Draws:
    """Randomness that a test sets by hand."""

    def __init__(self) -> None:
        self.value = 1.0

    def __call__(self) -> float:
        return self.value


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def draws() -> Draws:
    return Draws()


@pytest.fixture(params=[None, StoreUnavailableError])
def circuit(request: pytest.FixtureRequest, clock: Clock, draws: Draws) -> Circuit:
    return Circuit(fault=request.param, clock=clock, random=draws)


def fail(circuit: Circuit) -> None:
    with contextlib.suppress(StoreUnavailableError), circuit.passing():
        raise StoreUnavailableError


def succeed(circuit: Circuit) -> None:
    with circuit.passing():
        pass


def begin(circuit: Circuit) -> contextlib.AbstractContextManager[None]:
    """Begin a call that is still under way."""
    call = circuit.passing()
    call.__enter__()
    return call


def end(call: contextlib.AbstractContextManager[None], error: Exception | None = None) -> None:
    """End a call, which keeps no error to itself."""
    assert not call.__exit__(type(error) if error else None, error, None)


def wait_out(circuit: Circuit, clock: Clock) -> float:
    """Return the seconds until a call is let through, in quarters."""
    began = clock.now
    while circuit.is_open:
        clock.advance(0.25)
    return clock.now - began


def waits(circuit: Circuit, clock: Clock, count: int) -> list[float]:
    """Fail trial after trial; return the seconds before each."""
    seconds = []
    for _ in range(count):
        seconds.append(wait_out(circuit, clock))
        fail(circuit)
    return seconds


def test_it_lets_everybody_through_until_a_failure(circuit: Circuit) -> None:
    calls = [begin(circuit) for _ in range(3)]
    assert not circuit.is_open
    for call in calls:
        end(call)
    succeed(circuit)
    assert not circuit.is_open


def test_the_first_failure_opens_it(circuit: Circuit) -> None:
    circuit.check()
    fail(circuit)
    assert circuit.is_open
    with pytest.raises(StoreUnavailableError):
        circuit.check()


def test_one_call_tries_and_the_others_wait_for_it(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.advance(1)
    with circuit.passing():
        for _ in range(2):
            assert circuit.is_open
            with pytest.raises(StoreUnavailableError), circuit.passing():
                pytest.fail("a second call was let through")
    succeed(circuit)


def test_a_trial_that_succeeds_closes_it_and_after_calm_the_wait_is_short_again(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    waits(circuit, clock, 3)
    clock.advance(30)
    succeed(circuit)
    for call in (begin(circuit), begin(circuit)):
        end(call)
    clock.advance(31)
    fail(circuit)
    assert waits(circuit, clock, 1) == [1]


def test_a_quick_relapse_keeps_the_ceiling_high(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    assert waits(circuit, clock, 2) == [1, 2]
    assert wait_out(circuit, clock) == 4
    succeed(circuit)
    clock.advance(30)
    fail(circuit)
    assert wait_out(circuit, clock) == 8


def test_the_ceiling_doubles_up_to_a_cap_and_calm_forgets(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    assert waits(circuit, clock, 8) == [1, 2, 4, 8, 16, 30, 30, 30]
    wait_out(circuit, clock)
    succeed(circuit)
    fail(circuit)
    assert wait_out(circuit, clock) == 30
    succeed(circuit)
    clock.advance(31)
    fail(circuit)
    assert wait_out(circuit, clock) == 1


@pytest.mark.parametrize(("draw", "wait"), [(0.0, 0), (0.5, 8), (1.0, 16)])
def test_the_wait_is_drawn_from_nothing_to_the_ceiling(
    circuit: Circuit, clock: Clock, draws: Draws, draw: float, wait: float
) -> None:
    fail(circuit)
    waits(circuit, clock, 3)
    draws.value = draw
    clock.advance(30)
    fail(circuit)
    assert waits(circuit, clock, 1) == [wait]


def test_jitter_is_full(circuit: Circuit, clock: Clock, draws: Draws) -> None:
    draws.value = 0.25
    fail(circuit)
    clock.advance(0.2)
    assert circuit.is_open
    clock.advance(0.05)
    assert not circuit.is_open


def test_failures_of_calls_that_were_under_way_add_nothing(circuit: Circuit, clock: Clock) -> None:
    for call in [begin(circuit) for _ in range(100)]:
        end(call, StoreUnavailableError())
    assert waits(circuit, clock, 2) == [1, 2]


def test_calls_under_way_do_not_prolong_it(circuit: Circuit, clock: Clock) -> None:
    late = begin(circuit)
    fail(circuit)
    clock.advance(0.5)
    end(late, StoreUnavailableError())
    clock.advance(0.5)
    assert not circuit.is_open


def test_only_the_trial_closes_it(circuit: Circuit, clock: Clock) -> None:
    early, late = begin(circuit), begin(circuit)
    fail(circuit)
    end(early)
    assert circuit.is_open
    clock.advance(1)
    with circuit.passing():
        end(late)
        assert circuit.is_open
    assert not circuit.is_open


def test_a_cancelled_trial_leaves_its_place_to_the_next(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.advance(1)
    with pytest.raises(asyncio.CancelledError), circuit.passing():
        raise asyncio.CancelledError
    assert not circuit.is_open
    with circuit.passing():
        assert circuit.is_open
    fail(circuit)
    assert circuit.is_open


def test_a_cancelled_trial_closes_nothing(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.advance(1)
    with pytest.raises(asyncio.CancelledError), circuit.passing():
        raise asyncio.CancelledError
    fail(circuit)
    assert wait_out(circuit, clock) == 2


def test_without_a_fault_of_its_own_everything_but_an_answer_is_one(clock: Clock, draws: Draws) -> None:
    circuit = Circuit(clock=clock, random=draws)
    with pytest.raises(OSError, match="boom"), circuit.passing():
        raise OSError("boom")
    with pytest.raises(CircuitOpenError), circuit.passing():
        pytest.fail("it is not to be asked")
    clock.advance(1)
    with pytest.raises(KeyError), circuit.passing(answers=(KeyError,)):
        raise KeyError
    for call in (begin(circuit), begin(circuit)):
        end(call)
    assert not circuit.is_open


def test_a_fault_of_its_own_is_what_opens_it_and_what_it_raises(clock: Clock, draws: Draws) -> None:
    circuit = Circuit(fault=StoreFullError, clock=clock, random=draws)
    with pytest.raises(StoreUnavailableError), circuit.passing():
        raise StoreUnavailableError
    assert not circuit.is_open
    with pytest.raises(StoreFullError), circuit.passing():
        raise StoreFullError
    with pytest.raises(StoreFullError), circuit.passing():
        pytest.fail("it is not to be asked")
    clock.advance(1)
    # Of no say in the matter: neither closed nor waiting longer.
    with pytest.raises(StoreUnavailableError), circuit.passing():
        raise StoreUnavailableError
    end(begin(circuit), StoreFullError())
    assert wait_out(circuit, clock) == 2
