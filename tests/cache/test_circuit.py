from __future__ import annotations

import asyncio

import pytest

from sfumato.cache.circuit import Circuit, CircuitOpenError
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


@pytest.fixture
def circuit(clock: Clock, draws: Draws) -> Circuit:
    return Circuit(clock=clock, random=draws)


def waits(circuit: Circuit, clock: Clock, count: int) -> list[float]:
    """Fail probe after probe; return the seconds before each in quarters."""
    seconds = []
    for _ in range(count):
        begun = clock.now
        while not circuit.allow():
            clock.advance(0.25)
        seconds.append(clock.now - begun)
        circuit.failed()
    return seconds


def test_it_lets_everybody_through_until_a_failure(circuit: Circuit) -> None:
    assert all(circuit.allow() for _ in range(3))
    circuit.succeeded()
    assert circuit.allow()


def test_the_first_failure_opens_it(circuit: Circuit) -> None:
    circuit.failed()
    assert not circuit.allow()


def test_one_probe_at_a_time(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    clock.advance(1)
    assert [circuit.allow() for _ in range(3)] == [True, False, False]


def test_a_probe_that_succeeds_closes_it_and_the_wait_is_short_again(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    waits(circuit, clock, 3)
    clock.advance(30)
    assert circuit.allow()
    circuit.succeeded()
    assert [circuit.allow(), circuit.allow()] == [True, True]
    circuit.failed()
    assert waits(circuit, clock, 1) == [1]


def test_the_wait_doubles_up_to_a_bound(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    assert waits(circuit, clock, 8) == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("draw", "wait"), [(0.0, 0), (0.5, 8), (1.0, 16)])
def test_the_wait_is_drawn_from_nothing_to_the_bound(
    circuit: Circuit, clock: Clock, draws: Draws, draw: float, wait: float
) -> None:
    circuit.failed()
    waits(circuit, clock, 3)
    draws.value = draw
    clock.advance(30)
    assert circuit.allow()
    circuit.failed()
    assert waits(circuit, clock, 1) == [wait]


def test_failures_of_calls_that_were_under_way_add_nothing(circuit: Circuit, clock: Clock) -> None:
    for _ in range(100):
        circuit.failed()
    assert waits(circuit, clock, 2) == [1, 2]


def test_a_cancelled_probe_leaves_its_place_to_the_next(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    clock.advance(1)
    with pytest.raises(asyncio.CancelledError), circuit.call():
        raise asyncio.CancelledError
    assert [circuit.allow(), circuit.allow()] == [True, False]


def test_a_call_reports_how_it_ended(circuit: Circuit, clock: Clock) -> None:
    with pytest.raises(OSError, match="boom"), circuit.call():
        raise OSError("boom")
    with pytest.raises(CircuitOpenError), circuit.call():
        pytest.fail("it is not to be asked")
    clock.advance(1)
    with pytest.raises(KeyError), circuit.call(answers=(KeyError,)):
        raise KeyError
    with circuit.call():
        pass
    assert circuit.allow()
