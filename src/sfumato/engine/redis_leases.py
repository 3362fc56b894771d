"""Leases between hosts: a key in Redis per lease, which ends by itself when its holder dies."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import weakref
from collections.abc import Awaitable, Callable
from contextvars import Context

from sfumato.cache.redis import RedisConnection
from sfumato.cache.redis_scripts import RELEASE, RENEW, lease_key
from sfumato.cache.store import StoreUnavailableError
from sfumato.engine.coordination import take, wait_until_free
from sfumato.engine.supervisor import Supervisor

TTL_SECONDS = 10.0
_PAUSES_SECONDS = (0.02, 0.25)


class RedisLease:
    """A key that holds our token, renewed three times within its time until `release`.

    Args:
        connection: Shared with whoever else asks this Redis.
        name: Of the key.
        token: What only this holder knows.
        ttl_seconds: How long the key outlives its holder.
        sleep: Waits for seconds between renewals.

    Attributes:
        lost: The key holds another's token, or may by now: Redis could not be asked for the whole of its time.
    """

    def __init__(
        self,
        connection: RedisConnection,
        name: str,
        token: str,
        *,
        ttl_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._name = name
        self._token = token
        self._ttl_seconds = ttl_seconds
        self._sleep = sleep
        self.lost = False
        # From a clean context: the renewal belongs to no request's trace.
        self._renewal: asyncio.Task[None] | None = asyncio.create_task(self._renew(), context=Context())

    async def release(self) -> None:
        """Give the key back if it is still ours; it ends by itself when Redis is gone, so nothing is raised."""
        renewal, self._renewal = self._renewal, None
        if renewal is None:
            return
        renewal.cancel()
        with contextlib.suppress(StoreUnavailableError):
            await self._connection.run(RELEASE, (self._name,), (self._token,))

    async def _renew(self) -> None:
        milliseconds = _milliseconds(self._ttl_seconds)
        now = asyncio.get_running_loop().time
        renewed_at = now()
        while True:
            await self._sleep(self._ttl_seconds / 3)
            began = now()
            try:
                if not await self._connection.run(RENEW, (self._name,), (self._token, milliseconds)):
                    break
            except StoreUnavailableError:
                # A hiccup costs no lease: the key lives on for the rest of its time.
                if now() - renewed_at >= self._ttl_seconds:
                    break
            else:
                renewed_at = began
        self.lost = True


class RedisLeases:
    """Leases shared by every host that uses the same Redis.

    Every method but `RedisLease.release` raises `StoreUnavailableError`, quickly, when Redis is gone.

    Args:
        connection: Not closed by `aclose`; sharing the store's shares its circuit too.
        ttl_seconds: After how long the lease of a dead holder is free; at least 1 ms.
        clock: Seconds that only grow.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        ttl_seconds: float = TTL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connection = connection
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._sleep = sleep
        # Weak: whoever was given a lease keeps it, and its renewal keeps it until the release.
        self._held: weakref.WeakSet[RedisLease] = weakref.WeakSet()
        self._jobs = Supervisor()

    async def acquire(self, key: str) -> RedisLease | None:
        """Take the lease of *key* at once, None when somebody else holds it.

        Raises:
            StoreUnavailableError: Redis is gone or takes no more keys.
        """
        return await take(self._take(lease_key(key)), self._jobs)

    async def wait(self, key: str, timeout_seconds: float) -> bool:
        """Wait until the lease of *key* is free; False when *timeout_seconds* passed first.

        Raises:
            StoreUnavailableError: Redis is gone.
        """
        name = lease_key(key)

        async def is_free() -> bool:
            return not await self._connection.execute("EXISTS", name)

        return await wait_until_free(
            is_free,
            timeout_seconds=timeout_seconds,
            pauses=_PAUSES_SECONDS,
            clock=self._clock,
            sleep=self._sleep,
        )

    async def aclose(self) -> None:
        """Release whatever is still held."""
        await self._jobs.settle()
        await asyncio.gather(*(lease.release() for lease in list(self._held)))

    async def _take(self, name: str) -> RedisLease | None:
        token = secrets.token_hex(16)
        taken = await self._connection.execute("SET", name, token, "NX", "PX", _milliseconds(self._ttl_seconds))
        if not taken:
            return None
        lease = RedisLease(self._connection, name, token, ttl_seconds=self._ttl_seconds, sleep=self._sleep)
        self._held.add(lease)
        return lease


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
