"""Running generations by key: one upstream call for any number of identical requests.

Within a process the first request of a key leads and the others wait for its picture. Between processes and hosts the
leader holds a lease; a leader elsewhere is waited for, and its picture is then found in the cache. A process that holds
a lease and does nothing is not waited for for ever: with half of the time to the deadline gone, this one goes on alone.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sfumato.engine.coordination import Lease, Leases
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import ImageError
from sfumato.images.request import GeneratedImage

_log = logging.getLogger("sfumato")
_PATIENCE = 0.5

OnLate = Callable[[asyncio.Task[GeneratedImage]], None]
Make = Callable[[OnLate], Awaitable[GeneratedImage]]
Find = Callable[[], Awaitable[GeneratedImage | None]]
Keep = Callable[[GeneratedImage], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One picture that is wanted.

    Attributes:
        key: What it is cached under.
        slot: Its place among the n of its request.
        deadline: When its request gives up, on the clock of `Flights`.
        find: Looks for the picture in the cache.
        make: Makes the picture; tells of what goes on when its request ends while the picture is being finished.
        keep: Stores the picture that was made; the request does not wait for it, the next one does.
        takes: Tells whether an error of somebody else's is this request's as well.
        is_private: Tells whether an error of *make* concerns this request only (its deadline, its own account).
    """

    key: str
    slot: int
    deadline: float
    find: Find
    make: Make
    keep: Keep
    takes: Callable[[ImageError], bool]
    is_private: Callable[[ImageError], bool]


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
        # None stands for a leader that left without a result that others could use: elect another.
        self._running: dict[str, asyncio.Future[GeneratedImage | ImageError | None]] = {}

    async def fly(self, flight: Flight) -> GeneratedImage:
        """Return the picture, made here or taken from whoever makes it already.

        A shared picture counts as a hit: its ``age_seconds`` is set, so it costs nothing.

        Raises:
            ImageError: The leader's error, unless it concerns the leader only; then another leader is elected.
        """
        while (running := self._running.get(flight.key)) is not None:
            # It has begun, so it is nearer to the picture than whoever would begin now, and its deadline ends it.
            await asyncio.wait([running])
            outcome = running.result()
            if isinstance(outcome, ImageError):
                if flight.takes(outcome):
                    # Its `attempts` stay the leader's: whether repeating can help is the same for all of them.
                    raise copy.copy(outcome)
            elif outcome is not None:
                return shared(outcome, flight.slot)
        return await self._lead(flight)

    async def aclose(self) -> None:
        """Release what the leases hold."""
        await self._leases.aclose()

    async def _lead(self, flight: Flight) -> GeneratedImage:
        outcome: asyncio.Future[GeneratedImage | ImageError | None] = asyncio.get_running_loop().create_future()
        self._running[flight.key] = outcome
        told: GeneratedImage | ImageError | None = None
        made: GeneratedImage | None = None
        late: list[asyncio.Task[GeneratedImage]] = []
        lease: Lease | None = None
        try:
            lease = await self._lease(flight)
            # Whoever led until now, here or elsewhere, has stored it: the first look may have been too early.
            told = await flight.find()
            if told is None:
                told = made = await flight.make(late.append)
        except ImageError as error:
            told = None if flight.is_private(error) else error
            raise
        else:
            return told
        finally:
            if late:
                self._supervisor.start(self._land_late(flight, outcome, late[0], lease))
            else:
                outcome.set_result(told)
                if made is None:
                    del self._running[flight.key]
                if made is not None or lease is not None:
                    self._supervisor.start(self._land(flight, made, lease))

    async def _land_late(
        self,
        flight: Flight,
        outcome: asyncio.Future[GeneratedImage | ImageError | None],
        finishing: asyncio.Task[GeneratedImage],
        lease: Lease | None,
    ) -> None:
        """Wait for a picture that is paid for, though its own request is over: others are given it."""
        made: GeneratedImage | None = None
        try:
            await asyncio.wait([finishing])
            made = None if finishing.cancelled() or finishing.exception() else finishing.result()
        finally:
            outcome.set_result(made)
            if made is None:
                del self._running[flight.key]
        await self._land(flight, made, lease)

    async def _land(self, flight: Flight, made: GeneratedImage | None, lease: Lease | None) -> None:
        """Store what was made and only then let others fly: until then they are given what was made."""
        try:
            if made is not None:
                await flight.keep(made)
        finally:
            if made is not None:
                del self._running[flight.key]
            if lease is not None:
                await self._release(lease)

    async def _lease(self, flight: Flight) -> Lease | None:
        """Return the lease, or None to go on without: the picture is there, patience is over, or leases do not work."""
        patience = self._clock() + (flight.deadline - self._clock()) * _PATIENCE
        try:
            while (lease := await self._leases.acquire(flight.key)) is None:
                free = await self._leases.wait(flight.key, max(0.0, patience - self._clock()))
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


def shared(image: GeneratedImage, slot: int) -> GeneratedImage:
    """Return a picture as whoever did not pay for it is given it: a hit."""
    return dataclasses.replace(image, slot=slot, age_seconds=image.age_seconds or 0.0)
