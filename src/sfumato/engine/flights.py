"""Running generations by key: one upstream call for any number of identical requests.

Within a process the first request of a key leads and the others wait for its picture. Between processes and hosts the
leader holds a lease; a leader elsewhere is waited for, and its picture is then found in the cache. A process that holds
a lease and does nothing is not waited for for ever: past its patience this one goes on alone.

A flight may be made by another one, under another key, as long as no flight is ever made by one that waits for it.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sfumato.engine.coordination import Lease, Leases
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import ImageError
from sfumato.images.request import GeneratedImage
from sfumato.upstream.accounts import Account

_log = logging.getLogger("sfumato")

# Tells, once nothing of a flight is under way any more, whether its picture is found from now on.
Landing = asyncio.Future[bool]
OnLate = Callable[[asyncio.Task[GeneratedImage]], None]
Make = Callable[[OnLate], Awaitable[GeneratedImage]]
Find = Callable[[], Awaitable[GeneratedImage | None]]
Keep = Callable[[GeneratedImage], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One picture that is wanted.

    Attributes:
        key: What makes it the same as another.
        slot: Its place among the n of its request.
        account: What its request brought to pay with, None for the pool.
        patient_until: Until when a leader elsewhere is waited for, on the clock of `Flights`.
        find: Looks for the picture where it may be by now.
        make: Makes the picture; tells of what goes on when its request ends while the picture is being finished.
        keep: Stores the picture that was made and tells whether it is found from now on; the request does not wait for
            it, the next one does.
        takes: Tells whether an error that was met with another account is this request's as well.
        is_private: Tells whether an error of *make* concerns this request only, such as its deadline.
    """

    key: str
    slot: int
    account: Account | None
    patient_until: float
    find: Find
    make: Make
    keep: Keep
    takes: Callable[[ImageError], bool]
    is_private: Callable[[ImageError], bool]


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error, and what it was met with."""

    error: ImageError
    account: Account | None


_Outcome = GeneratedImage | _Failure | None


@dataclass(frozen=True, slots=True)
class _Running:
    """A flight that has a leader.

    Attributes:
        outcome: What others are told; None stands for a leader without a result that they could use: elect another.
        landing: When it is over, its storing included.
    """

    outcome: asyncio.Future[_Outcome]
    landing: Landing


class Flights:
    """Let one of many identical flights fly.

    Args:
        leases: Coordinates with other processes and hosts.
        supervisor: Keeps what goes on after an answer.
        clock: Monotonic seconds.
    """

    def __init__(self, leases: Leases, *, supervisor: Supervisor, clock: Callable[[], float]) -> None:
        self._leases = leases
        self._supervisor = supervisor
        self._clock = clock
        self._coordinating = True
        self._running: dict[str, _Running] = {}

    async def fly(self, flight: Flight, *, on_landing: Callable[[Landing], None] = lambda _: None) -> GeneratedImage:
        """Return the picture, made here or taken from whoever makes it already.

        A shared picture counts as a hit: its ``age_seconds`` is set, so it costs nothing.

        Args:
            flight: What is wanted.
            on_landing: Given the landing of each flight that it is taken along by; the last one's is the picture's.
                Others wait for it as well: never to be cancelled.

        Raises:
            ImageError: The leader's error, unless it concerns the leader only; then another leader is elected.
        """
        while (running := self._running.get(flight.key)) is not None:
            # It has begun, so it is nearer to the picture than whoever would begin now, and its deadline ends it.
            on_landing(running.landing)
            await asyncio.wait([running.outcome])
            outcome = running.outcome.result()
            if isinstance(outcome, _Failure):
                if outcome.account == flight.account or flight.takes(outcome.error):
                    # Its `attempts` stay the leader's: whether repeating can help is the same for all of them.
                    raise copy.copy(outcome.error)
            elif outcome is not None:
                return shared(outcome, flight.slot)
        running = self._running[flight.key] = _Running(_future(), _future())
        on_landing(running.landing)
        return await self._lead(flight, running)

    async def aclose(self) -> None:
        """Release what the leases hold."""
        await self._leases.aclose()

    async def _lead(self, flight: Flight, running: _Running) -> GeneratedImage:
        told: _Outcome = None
        found = made = None
        late: list[asyncio.Task[GeneratedImage]] = []
        lease: Lease | None = None
        try:
            lease = await self._lease(flight)
            # Whoever led until now, here or elsewhere, has stored it: the first look may have been too early.
            told = found = await flight.find()
            if found is not None:
                return found
            told = made = await flight.make(late.append)
        except ImageError as error:
            told = None if flight.is_private(error) else _Failure(error, flight.account)
            raise
        else:
            return made
        finally:
            if late:
                self._supervisor.start(self._land_late(flight, running, late[0], lease))
            else:
                running.outcome.set_result(told)
                if made is None:
                    self._end(flight, running, found=found is not None)
                if made is not None or lease is not None:
                    self._supervisor.start(self._land(flight, running, made, lease))

    async def _land_late(
        self,
        flight: Flight,
        running: _Running,
        finishing: asyncio.Task[GeneratedImage],
        lease: Lease | None,
    ) -> None:
        """Wait for a picture that is paid for, though its own request is over: others are given it."""
        made: GeneratedImage | None = None
        try:
            await asyncio.wait([finishing])
            made = None if finishing.cancelled() or finishing.exception() else finishing.result()
        finally:
            running.outcome.set_result(made)
            if made is None:
                self._end(flight, running, found=False)
        await self._land(flight, running, made, lease)

    async def _land(self, flight: Flight, running: _Running, made: GeneratedImage | None, lease: Lease | None) -> None:
        """Store what was made and only then let others fly: until then they are given what was made."""
        found = False
        try:
            if made is not None:
                found = await flight.keep(made)
        finally:
            if made is not None:
                self._end(flight, running, found=found)
            if lease is not None:
                await self._release(lease)

    def _end(self, flight: Flight, running: _Running, *, found: bool) -> None:
        del self._running[flight.key]
        running.landing.set_result(found)

    async def _lease(self, flight: Flight) -> Lease | None:
        """Return the lease, or None to go on without: the picture is there, patience is over, or leases do not work."""
        try:
            while (lease := await self._leases.acquire(flight.key)) is None:
                free = await self._leases.wait(flight.key, max(0.0, flight.patient_until - self._clock()))
                if not free or await flight.find() is not None:
                    return None
        except Exception as error:  # noqa: BLE001  # whatever coordination does, the request goes on
            self._report(error)
            return None
        self._report(None)
        return lease

    def _report(self, error: Exception | None) -> None:
        """Log once per change of state: an outage has as many requests as the day has."""
        if error is not None and self._coordinating:
            _log.warning("Coordination failed (%s); requests go on alone.", type(error).__name__)
        elif error is None and not self._coordinating:
            _log.info("Coordination works again.")
        self._coordinating = error is None

    async def _release(self, lease: Lease) -> None:
        try:
            await lease.release()
        except Exception as error:  # noqa: BLE001  # the lease ends with its holder or its time
            _log.warning("A lease could not be released (%s).", type(error).__name__)


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def shared(image: GeneratedImage, slot: int) -> GeneratedImage:
    """Return a picture as whoever did not pay for it is given it: a hit."""
    return dataclasses.replace(image, slot=slot, age_seconds=image.age_seconds or 0.0)
