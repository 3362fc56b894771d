"""The port for state shared between processes and hosts: who is making a picture right now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from sfumato.engine.supervisor import Supervisor


class Lease(Protocol):
    """The right to make the picture of one key, until released or until its holder dies."""

    async def release(self) -> None:
        """Give the right back; harmless when it was lost meanwhile."""
        ...


_LeaseT = TypeVar("_LeaseT", bound=Lease)


class Leases(Protocol):
    """Hand out leases, one at a time per key.

    Every method may raise what its medium raises (``OSError``, a client library's errors): whoever asks then goes on
    alone.
    """

    async def acquire(self, key: str) -> Lease | None:
        """Take the lease of *key* at once, None when somebody else holds it."""
        ...

    async def wait(self, key: str, timeout_seconds: float) -> bool:
        """Wait until the lease of *key* is free; False when *timeout_seconds* passed first."""
        ...

    async def aclose(self) -> None:
        """Release connections and handles."""
        ...


async def wait_until_free(
    is_free: Callable[[], Awaitable[bool]],
    *,
    timeout_seconds: float,
    pauses: tuple[float, float],
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> bool:
    """Ask *is_free* again and again until it says so; False when *timeout_seconds* passed first.

    Args:
        is_free: Asked at least once.
        timeout_seconds: How long to go on asking.
        pauses: Seconds between the first two questions and at most; each pause is twice the one before.
        clock: Monotonic seconds.
        sleep: Waits for seconds.
    """
    pause, longest = pauses
    deadline = clock() + timeout_seconds
    while not await is_free():
        remaining = deadline - clock()
        if remaining <= 0:
            return False
        await sleep(min(pause, remaining))
        pause = min(2 * pause, longest)
    return True


async def take(attempt: Coroutine[Any, Any, _LeaseT | None], jobs: Supervisor) -> _LeaseT | None:
    """Return the lease of *attempt*; should the caller be cancelled meanwhile, it is given back as soon as it is there.

    Args:
        attempt: Takes a lease, None when somebody else holds it.
        jobs: Keeps what the caller does not wait for.
    """
    taking = jobs.start(attempt)
    try:
        await asyncio.wait([taking])
    except asyncio.CancelledError:
        jobs.start(_give_back(taking))
        raise
    return taking.result()


async def _give_back(taking: asyncio.Task[_LeaseT | None]) -> None:
    lease = await taking
    if lease is not None:
        await lease.release()


class LocalLeases:
    """Leases of a process that shares its cache with no other: always free.

    Within a process, flights know each other without leases.
    """

    async def acquire(self, key: str) -> Lease | None:  # noqa: ARG002  # the protocol's signature
        """Take the lease."""
        return self

    async def wait(self, key: str, timeout_seconds: float) -> bool:  # noqa: ARG002  # the protocol's signature
        """Return at once."""
        return True

    async def release(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""
