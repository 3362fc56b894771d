from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.engine.bulkhead import Bulkhead
from sfumato.errors import OverloadedError

pytestmark = pytest.mark.anyio


class Work:
    """A piece of work that holds its place until it is told to finish."""

    def __init__(self, floor: Floor, tenant: str | None) -> None:
        self.tenant = tenant
        self.inside = False
        self.waited: float | None = None
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run(floor))

    async def _run(self, floor: Floor) -> None:
        async with floor.bulkhead.place(self.tenant) as self.waited:
            self.inside = True
            floor.admitted.append(self)
            try:
                await self._end.wait()
            finally:
                self.inside = False

    def finish(self) -> None:
        self._end.set()

    @property
    def refusal(self) -> OverloadedError | None:
        if not self.task.done() or self.task.cancelled():
            return None
        error = self.task.exception()
        assert error is None or isinstance(error, OverloadedError)
        return error


class Floor:
    """A bulkhead, everything that was ever sent to it, and a clock moved by hand."""

    def __init__(self, *, places: int, queue: int) -> None:
        self.now = 100.0
        self.bulkhead = Bulkhead(max_concurrency=places, queue_size=queue, clock=lambda: self.now)
        self.all: list[Work] = []
        self.admitted: list[Work] = []

    async def send(self, tenant: str | None = None, *, count: int = 1) -> list[Work]:
        sent = [Work(self, tenant) for _ in range(count)]
        self.all += sent
        await settle()
        return sent

    async def finish(self, *works: Work) -> None:
        for work in works:
            work.finish()
        await settle()

    async def empty(self) -> None:
        """Let everybody finish."""
        for work in self.all:
            work.finish()
        for work in self.all:
            with suppress(OverloadedError, asyncio.CancelledError):
                await work.task


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_so_many_run_so_many_wait_and_the_next_is_refused_at_once() -> None:
    floor = Floor(places=2, queue=3)

    works = await floor.send("a", count=6)

    assert [work.inside for work in works] == [True, True, False, False, False, False]
    assert (floor.bulkhead.running, floor.bulkhead.waiting) == (2, 3)
    assert works[5].refusal
    assert works[5].refusal.code == "IMG_OVERLOADED"
    await floor.empty()
    assert (floor.bulkhead.running, floor.bulkhead.waiting) == (0, 0)


async def test_without_a_queue_everything_beyond_the_places_is_refused() -> None:
    floor = Floor(places=1, queue=0)

    first, second = await floor.send(count=2)

    assert first.inside
    assert second.refusal
    await floor.finish(first)
    (third,) = await floor.send()
    assert third.inside
    await floor.empty()


async def test_a_place_tells_how_long_it_was_waited_for() -> None:
    floor = Floor(places=1, queue=1)
    first, second = await floor.send(count=2)

    floor.now += 7.5
    await floor.finish(first)

    assert (first.waited, second.waited) == (0.0, 7.5)
    await floor.empty()


async def test_an_error_inside_gives_the_place_back() -> None:
    bulkhead = Bulkhead(max_concurrency=1, queue_size=0, clock=lambda: 0.0)

    for _ in range(3):
        with pytest.raises(ValueError, match="inside"):
            async with bulkhead.place("a"):
                raise ValueError("inside")

    assert bulkhead.running == 0


async def test_free_places_go_round_the_tenants_and_first_come_first_served_within_one() -> None:
    floor = Floor(places=1, queue=20)
    (holder,) = await floor.send("a")
    a = await floor.send("a", count=4)
    b = await floor.send("b", count=2)
    nobody = await floor.send(None, count=1)

    await floor.finish(holder, *a, *b, *nobody)

    assert floor.admitted == [holder, a[0], b[0], nobody[0], a[1], b[1], a[2], a[3]]
    await floor.empty()


async def test_a_newcomer_displaces_the_newest_of_the_tenant_that_fills_the_queue() -> None:
    floor = Floor(places=1, queue=4)
    await floor.send("busy", count=5)

    (newcomer,) = await floor.send("quiet")

    assert newcomer.refusal is None
    assert [bool(work.refusal) for work in floor.all] == [False, False, False, False, True, False]
    assert floor.bulkhead.waiting == 4
    await floor.empty()
    # Its turn comes after one of the busy tenant, not after all of them.
    assert floor.admitted.index(newcomer) == 2


async def test_a_full_queue_is_shared_evenly_and_then_changes_no_more() -> None:
    floor = Floor(places=1, queue=6)
    await floor.send("a", count=7)
    await floor.send("b", count=50)
    await floor.send("c", count=50)
    await floor.send("a", count=50)

    waiting = Counter(work.tenant for work in floor.all if not work.task.done() and not work.inside)

    assert waiting == {"a": 2, "b": 2, "c": 2}
    await floor.empty()


@pytest.mark.parametrize(("seconds", "retry_after"), [(0.01, 1.0), (8.0, 6.0), (600.0, 30.0)])
async def test_a_refusal_tells_when_the_queue_will_have_been_worked_off(seconds: float, retry_after: float) -> None:
    """Four places, calls of so many seconds, two that wait: three times the seconds over four."""
    floor = Floor(places=4, queue=2)
    first = await floor.send(count=4)
    floor.now += seconds
    await floor.finish(*first)

    works = await floor.send(count=7)

    assert works[6].refusal
    assert works[6].refusal.retry_after == pytest.approx(retry_after)
    await floor.empty()


async def test_before_any_call_has_ended_the_refusal_has_the_tables_delay() -> None:
    floor = Floor(places=1, queue=0)

    _, refused = await floor.send(count=2)

    assert refused.refusal
    assert refused.refusal.retry_after == OverloadedError.default_retry_after
    await floor.empty()


async def test_whoever_is_cancelled_while_it_waits_leaves_the_queue() -> None:
    floor = Floor(places=1, queue=2)
    holder, waiting = await floor.send("a", count=2)

    waiting.task.cancel()
    await settle()

    assert floor.bulkhead.waiting == 0
    await floor.finish(holder)
    assert floor.bulkhead.running == 0


async def test_whoever_is_cancelled_just_when_its_turn_comes_passes_the_place_on() -> None:
    floor = Floor(places=1, queue=2)
    holder, second, third = await floor.send("a", count=3)

    # The holder's task gives its place to the second before that one runs again.
    holder.task.cancel()
    holder.task.add_done_callback(lambda _: second.task.cancel())
    await settle()

    assert second.task.cancelled()
    assert not second.inside
    assert third.inside
    await floor.empty()
    assert floor.bulkhead.running == 0


async def test_whoever_is_cancelled_just_when_it_is_displaced_leaves_nothing_behind() -> None:
    floor = Floor(places=1, queue=2)
    _, _, newest = await floor.send("a", count=3)

    newcomer = Work(floor, "b")
    floor.all.append(newcomer)
    await asyncio.sleep(0)
    newest.task.cancel()
    await settle()

    assert newest.task.cancelled()
    assert floor.bulkhead.waiting == 2
    await floor.empty()
    assert (floor.bulkhead.running, floor.bulkhead.waiting) == (0, 0)


async def test_whoever_is_cancelled_in_the_tick_that_frees_a_place_costs_nobody_anything() -> None:
    """Its turn is over at once and its task only a tick later; the place is freed in between."""
    floor = Floor(places=1, queue=9)
    holder, second, third = await floor.send("a", count=3)
    (other,) = await floor.send("b")

    holder.finish()
    second.task.cancel()
    assert floor.bulkhead.waiting == 2
    await settle()

    assert holder.task.done()
    assert holder.task.exception() is None
    assert second.task.cancelled()
    assert third.inside, "its tenant has not lost its turn"
    await floor.finish(third)
    assert other.inside
    await floor.empty()
    assert (floor.bulkhead.running, floor.bulkhead.waiting) == (0, 0)


async def test_with_everybody_cancelled_in_the_tick_that_frees_a_place_the_place_is_free() -> None:
    floor = Floor(places=1, queue=9)
    holder, *waiting = [*await floor.send("a", count=3), *await floor.send("b")]

    holder.finish()
    for work in waiting:
        work.task.cancel()
    await settle()

    assert [work.task.cancelled() for work in waiting] == [True] * 3
    assert (floor.bulkhead.running, floor.bulkhead.waiting) == (0, 0)
    (next_one,) = await floor.send("a")
    assert next_one.inside
    await floor.empty()


async def test_whoever_is_cancelled_in_the_tick_of_a_newcomer_is_not_displaced() -> None:
    floor = Floor(places=1, queue=4)
    _, *waiting = await floor.send("a", count=5)

    # Nobody has run since; the newcomer's task is the first to run.
    newcomers = [Work(floor, "b") for _ in range(2)]
    floor.all += newcomers
    waiting[-1].task.cancel()
    await settle()

    assert waiting[-1].task.cancelled()
    assert [bool(work.refusal) for work in waiting[:3]] == [False, False, True]
    assert floor.bulkhead.waiting == 4
    await floor.empty()
    assert (floor.bulkhead.running, floor.bulkhead.waiting) == (0, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["finish", "cancel"]), st.integers(0, 40)),
        st.tuples(st.just("run"), st.integers(1, 4)),
    ),
    max_size=60,
)


@given(places=st.integers(1, 3), queue=st.integers(0, 4), steps=STEPS)
def test_nothing_leaks_in_whatever_order_things_happen(
    places: int, queue: int, steps: list[tuple[str, str | int]]
) -> None:
    """Arrivals, ends and cancellations fall between any two steps of the loop, also in the middle of a hand-over."""

    async def play() -> None:
        floor = Floor(places=places, queue=queue)
        for name, argument in steps:
            if name == "send":
                floor.all.append(Work(floor, str(argument)))
            elif name == "run":
                for _ in range(int(argument)):
                    await asyncio.sleep(0)
            elif floor.all:
                work = floor.all[int(argument) % len(floor.all)]
                if name == "finish":
                    work.finish()
                else:
                    work.task.cancel()
            bulkhead = floor.bulkhead
            assert sum(work.inside for work in floor.all) <= bulkhead.running <= places
            assert bulkhead.waiting <= queue
            assert not bulkhead.waiting or bulkhead.running == places
        await settle()
        assert floor.bulkhead.running == sum(work.inside for work in floor.all)
        assert floor.bulkhead.waiting == sum(not (work.inside or work.task.done()) for work in floor.all)
        await floor.empty()
        assert (floor.bulkhead.running, floor.bulkhead.waiting) == (0, 0)

    asyncio.run(play())
