from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from sfumato.engine.coordination import Lease, LocalLeases
from sfumato.engine.flights import Flight, Flights, Landing, OnLate
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import DeadlineError, ImageError, RateLimitedError, SafetyBlockedError, UpstreamFailureError
from sfumato.images.request import CacheStatus, GeneratedImage, Picture, Usage
from sfumato.upstream.accounts import Account
from tests.conftest import Emulator
from tests.support.clients import bench

pytestmark = pytest.mark.anyio


class Bay:
    """One key's pictures: what was made, what is stored, and when a maker may finish."""

    def __init__(self, leases: Any = None, *, patience: float = 60.0) -> None:
        self.supervisor = Supervisor()
        self.flights = Flights(leases or LocalLeases(), supervisor=self.supervisor, clock=lambda: 0.0)
        self.patience = patience
        self.made = 0
        self.stored: GeneratedImage | None = None
        self.finish = asyncio.Event()
        self.may_store = asyncio.Event()
        self.may_store.set()
        self.errors: list[ImageError] = []
        # What goes on when a maker is ended, where it was that far.
        self.finishing: asyncio.Task[GeneratedImage] | None = None

    def image(self, *, age_seconds: float | None = None) -> GeneratedImage:
        picture = Picture(raw=b"p", mime_type="image/png", width=1, height=1)
        return GeneratedImage(slot=0, picture=picture, usage=Usage(), price_usd=0.1, created=0, age_seconds=age_seconds)

    async def find(self) -> GeneratedImage | None:
        return self.stored

    async def make(self, on_late: OnLate) -> GeneratedImage:
        self.made += 1
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            if self.finishing is not None:
                on_late(self.finishing)
            raise
        if self.errors:
            raise self.errors.pop(0)
        return self.image()

    async def keep(self, image: GeneratedImage) -> bool:
        await self.may_store.wait()
        self.stored = dataclasses.replace(image, age_seconds=1.0)
        return True

    def start(
        self,
        *,
        slot: int = 0,
        account: str | None = None,
        takes: Callable[[ImageError], bool] = lambda _: False,
        landings: list[Landing] | None = None,
    ) -> asyncio.Task[GeneratedImage]:
        flight = Flight(
            key="key",
            slot=slot,
            account=None if account is None else Account.at("request", account, "http://x", "v1"),
            patient_until=self.patience,
            find=self.find,
            make=self.make,
            keep=self.keep,
            takes=takes,
            is_private=lambda error: isinstance(error, DeadlineError),
        )
        on_landing = [] if landings is None else landings
        return asyncio.create_task(self.flights.fly(flight, on_landing=on_landing.append))

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def test_many_make_one_and_all_but_one_are_hits() -> None:
    bay = Bay()
    tasks = [bay.start(slot=slot) for slot in range(50)]
    await bay.settled()
    bay.finish.set()
    images = await asyncio.gather(*tasks)
    assert bay.made == 1
    assert [image.slot for image in images[1:]] == list(range(1, 50)), "each keeps its own place"
    assert sorted({image.cost_usd for image in images}) == [0.0, 0.1]
    assert sum(image.cost_usd for image in images) == pytest.approx(0.1), "only the leader pays"


async def test_a_shared_error_is_told_to_all_each_its_own() -> None:
    """A refusal is the request's: nobody asks again; each gets an exception of its own, not a shared traceback."""
    bay = Bay()
    bay.errors = [SafetyBlockedError("no", reason="IMAGE_SAFETY")]
    tasks = [bay.start() for _ in range(3)]
    await bay.settled()
    bay.finish.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert bay.made == 1
    assert {type(outcome) for outcome in outcomes} == {SafetyBlockedError}
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, ImageError)} == {"IMAGE_SAFETY"}


async def test_private_trouble_elects_another_leader() -> None:
    """The leader's own deadline is no reason for the others to fail."""
    bay = Bay()
    bay.errors = [DeadlineError("late", reason="deadline")]
    tasks = [bay.start() for _ in range(3)]
    await bay.settled()
    bay.finish.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert bay.made == 2
    assert [isinstance(outcome, GeneratedImage) for outcome in outcomes] == [False, True, True]


async def test_whoever_waits_is_given_what_is_finished_after_the_leaders_end() -> None:
    """Its picture is paid for: neither those who waited nor those who come meanwhile have another one made."""
    bay, finish = Bay(), asyncio.Event()

    async def finishing() -> GeneratedImage:
        await finish.wait()
        return bay.image()

    leader, follower = bay.start(), bay.start()
    await bay.settled()
    bay.finishing = asyncio.create_task(finishing())
    leader.cancel()
    await bay.settled()
    newcomer = bay.start()
    await bay.settled()
    assert (leader.cancelled(), follower.done(), newcomer.done()) == (True, False, False)
    finish.set()
    images = await asyncio.gather(follower, newcomer)
    await bay.supervisor.settle()
    assert [image.cost_usd for image in images] == [0.0, 0.0]
    assert (bay.made, bay.stored is not None, bay.flights._running) == (1, True, {})


async def test_another_leads_where_the_finishing_fails() -> None:
    bay, finish = Bay(), asyncio.Event()

    async def finishing() -> GeneratedImage:
        await finish.wait()
        raise UpstreamFailureError("damaged")

    leader, follower = bay.start(), bay.start()
    await bay.settled()
    bay.finishing = asyncio.create_task(finishing())
    leader.cancel()
    await bay.settled()
    finish.set()
    bay.finish.set()
    assert (await follower).cost_usd == pytest.approx(0.1)
    assert bay.made == 2


@pytest.mark.parametrize(("leaders", "others"), [("own", None), (None, "own"), ("own", "another")])
async def test_what_befell_an_account_is_not_anothers(leaders: str | None, others: str | None) -> None:
    bay = Bay()
    bay.errors = [RateLimitedError("its quota")]
    tasks = [bay.start(account=account) for account in (leaders, others, leaders)]
    await bay.settled()
    bay.finish.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RateLimitedError, GeneratedImage, RateLimitedError]
    assert bay.made == 2, "whoever brought the same account is told, and asks nobody again"


async def test_a_cancelled_leader_does_not_take_the_others_along() -> None:
    bay = Bay()
    leader, follower = bay.start(), bay.start()
    await bay.settled()
    leader.cancel()
    await bay.settled()
    bay.finish.set()
    assert isinstance(await follower, GeneratedImage)
    assert bay.made == 2


async def test_whoever_comes_later_waits_as_long_as_it_takes() -> None:
    """The leader is ahead of any call that could begin now, and its own deadline ends it."""
    bay = Bay(patience=0.0)
    tasks = [bay.start() for _ in range(20)]
    await bay.settled()
    assert bay.made == 1
    bay.finish.set()
    assert sum(image.cost_usd for image in await asyncio.gather(*tasks)) == pytest.approx(0.1)


async def test_what_is_the_requests_own_fault_is_told_whatever_it_was_met_with() -> None:
    bay = Bay()
    bay.errors = [SafetyBlockedError("no")]
    tasks = [bay.start(account=account, takes=lambda _: True) for account in (None, "own", "another")]
    await bay.settled()
    bay.finish.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SafetyBlockedError] * 3
    assert bay.made == 1


async def test_a_landing_is_over_when_the_picture_is_stored() -> None:
    bay, leaders, followers = Bay(), list[Landing](), list[Landing]()
    bay.may_store.clear()
    tasks = [bay.start(landings=landings) for landings in (leaders, followers)]
    await bay.settled()
    bay.finish.set()
    await asyncio.gather(*tasks)
    await bay.settled()
    assert leaders == followers
    assert [landing.done() for landing in leaders] == [False]
    bay.may_store.set()
    assert await leaders[0]
    await bay.start(landings=leaders)
    assert await leaders[1], "it was found where it is stored"


async def test_a_landing_without_a_picture_tells_so() -> None:
    bay, landings = Bay(), list[Landing]()
    bay.errors = [DeadlineError("late")]
    leader, follower = bay.start(), bay.start(landings=landings)
    await bay.settled()
    bay.finish.set()
    await asyncio.gather(leader, follower, return_exceptions=True)
    assert [await landing for landing in landings] == [False, True], "the last one is the picture's"


async def test_a_look_that_was_too_early_is_repeated() -> None:
    """Between our miss and our turn somebody may have stored it."""
    bay = Bay()
    bay.stored = bay.image(age_seconds=2.0)
    image = await bay.start()
    assert bay.made == 0
    assert image.cost_usd == 0


class Elsewhere:
    """Leases of which another process holds the first."""

    def __init__(self, *, free: bool = True, fault: bool = False, stuck: bool = False) -> None:
        self.bay: Bay | None = None
        self.free, self.fault, self.stuck = free, fault, stuck
        self.acquired = self.waited = self.released = 0

    async def acquire(self, key: str) -> Lease | None:
        if self.fault:
            raise OSError("gone")
        self.acquired += 1
        return None if self.acquired == 1 else self

    async def wait(self, key: str, timeout_seconds: float) -> bool:
        self.waited += 1
        if self.bay is not None:
            self.bay.stored = self.bay.image(age_seconds=0.5)
        return self.free

    async def release(self) -> None:
        self.released += 1
        if self.stuck:
            raise OSError("gone")

    async def aclose(self) -> None:
        """Do nothing."""


async def test_a_leader_elsewhere_is_waited_for_and_its_picture_found() -> None:
    leases = Elsewhere()
    bay = Bay(leases)
    leases.bay = bay
    image = await bay.start()
    assert (bay.made, leases.waited, image.cost_usd) == (0, 1, 0.0)


async def test_a_leader_elsewhere_that_died_is_replaced() -> None:
    """It left no picture, so the lease is taken and given back afterwards."""
    leases = Elsewhere()
    bay = Bay(leases)
    bay.finish.set()
    await bay.start()
    assert (bay.made, leases.acquired, leases.released) == (1, 2, 1)


async def test_a_leader_elsewhere_that_takes_too_long_is_not_waited_for() -> None:
    leases = Elsewhere(free=False)
    bay = Bay(leases)
    bay.finish.set()
    await bay.start()
    assert (bay.made, leases.acquired, leases.released) == (1, 1, 0)


async def test_coordination_that_fails_costs_nothing_but_coordination(caplog: pytest.LogCaptureFixture) -> None:
    leases = Elsewhere(fault=True)
    bay = Bay(leases)
    bay.finish.set()
    with caplog.at_level("INFO", logger="sfumato"):
        for _ in range(3):
            bay.stored = None
            assert isinstance(await bay.start(), GeneratedImage)
        leases.fault, leases.acquired = False, 1
        bay.stored = None
        await bay.start()
    told = [record.getMessage() for record in caplog.records]
    assert told == ["Coordination failed (OSError); requests go on alone.", "Coordination works again."]


async def test_a_release_that_fails_loses_no_picture() -> None:
    leases = Elsewhere(stuck=True)
    bay = Bay(leases)
    bay.finish.set()
    assert isinstance(await bay.start(), GeneratedImage)
    assert leases.released == 1


async def test_identical_requests_make_one_call_per_slot(emulator: Emulator) -> None:
    """Through the client: 20 requests of n=2 at once make two calls, and one request pays."""
    async with bench(emulator.url) as it:
        results = await asyncio.gather(*(it.make("x [[emulator:latency:0.3;id=flights]]", n=2) for _ in range(20)))
    assert len(emulator.calls()) == 2
    assert sorted(result.cache_status for result in results) == [CacheStatus.HIT] * 19 + [CacheStatus.MISS]
    assert sum(result.cost_usd for result in results) == pytest.approx(
        sum(float(call["cost_usd"]) for call in emulator.calls()), abs=1e-6
    )


async def test_lookups_are_counted_once_and_nothing_that_was_counted_is_taken_back(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        vitals = it.client.cache.vitals
        requests = [asyncio.create_task(it.make("x [[emulator:latency:0.3;id=counted]]")) for _ in range(2)]
        while not emulator.calls():  # noqa: ASYNC110  # the emulator is a process, and tells nobody
            await asyncio.sleep(0)
        between = (vitals.hits, vitals.misses)
        await asyncio.gather(*requests)
        assert between == (0, 0), "what is on its way may become either"
        assert (vitals.hits, vitals.misses, vitals.lookups) == (1, 1, 2)
        await it.make("x [[emulator:latency:0.3;id=counted]]")
        assert (vitals.hits, vitals.misses) == (2, 1)
        with pytest.raises(SafetyBlockedError):
            await it.make("[[emulator:block:SAFETY]]")
        assert (vitals.hits, vitals.misses) == (2, 2)


async def test_who_asks_no_cache_looks_nothing_up(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        await it.make("x", cache={"no-cache": True})
        assert "cache.lookup" not in it.seen.steps
        assert it.client.cache.vitals.lookups == 0


async def test_who_shares_an_error_made_no_attempts_of_its_own(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        requests = [it.make("[[emulator:503;times=3;id=shared]]") for _ in range(4)]
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert len(emulator.calls()) == 3
    assert sorted(record.retry_count for record in it.seen.records) == [0, 0, 0, 2]
    for outcome in outcomes:
        assert isinstance(outcome, ImageError)
        assert (outcome.attempts, outcome.worth_repeating) == (3, False), "it was tried again here, whoever did it"


@pytest.mark.parametrize("control", [{"no-cache": True}, {"no-store": True}])
async def test_who_wants_a_fresh_picture_gets_one(emulator: Emulator, control: dict[str, bool]) -> None:
    async with bench(emulator.url) as it:
        await asyncio.gather(*(it.make("x [[emulator:latency:0.1;id=fresh]]", cache=control) for _ in range(3)))
    assert len(emulator.calls()) == 3
