"""A memory tier in front of a store that is farther away."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence

from sfumato.cache.memory import MemoryStore
from sfumato.cache.store import Store, StoredBlob, StoreStats
from sfumato.wire.payload import Piece

# How long this process may serve what another one has removed or replaced. Longer would save little: a picture that is
# asked for often costs one read of the backend per process in this time.
MEMORY_SECONDS = 30.0


class TieredStore:
    """Answer from memory what this process stored or read a moment ago, and ask the *backend* for the rest.

    A value stands in memory for at most `MEMORY_SECONDS`, whatever its own time: so long may another process's removal
    go unseen here. A value that was read from the backend may also outlive its end by as much, for a store does not
    tell when that is; `ImageCache` checks an entry's own time at every lookup. While the backend fails its errors are
    raised, and what stands in memory is served.

    Args:
        memory: The tier in front, closed by `aclose`.
        backend: Holds every value; closed by `aclose`.
    """

    def __init__(self, memory: MemoryStore, backend: Store) -> None:
        self._memory = memory
        self._backend = backend
        # Counts what ends the truth of a read that is under way.
        self._changes = 0

    async def get(self, key: str) -> bytes | StoredBlob | None:
        """Return the value from memory, else from the backend, and then keep it in memory.

        Raises:
            DamagedValueError: The backend's value was damaged; it has been removed.
        """
        value: bytes | StoredBlob | None = await self._memory.get(key)
        if value is not None:
            return value
        changes = self._changes
        value = await self._backend.get(key)
        # What was removed or stored anew during the read must not be undone by it.
        if value is None or changes != self._changes:
            return value
        kept = await self._memory.set(key, (value,), expires_in=MEMORY_SECONDS)
        if changes != self._changes:
            await self._memory.delete(key)
            return value
        # The copy, where there is one: what has been found good of it is so for the next lookup, too.
        return (await self._memory.get(key) or value) if kept else value

    async def peek(self, key: str, size: int) -> bytes | None:
        """Return the first *size* bytes of the value from memory, else from the backend; memory does not keep them.

        Raises:
            DamagedValueError: The backend's value was damaged; it has been removed.
        """
        start = await self._memory.peek(key, size)
        return start if start is not None else await self._backend.peek(key, size)

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        """Store the *value* in the backend and in memory; True when the backend keeps it.

        When the backend fails the value stands in memory all the same.
        """
        kept = True
        try:
            kept = await self._backend.set(key, value, expires_in=expires_in)
        finally:
            if kept:
                self._changes += 1
                lifetime = min(math.inf if expires_in is None else expires_in, MEMORY_SECONDS)
                await self._memory.set(key, value, expires_in=lifetime)
            else:
                await self._forget(key)
        return kept

    async def delete(self, key: str) -> bool:
        """Remove a value from both; True when the backend had one."""
        try:
            return await self._backend.delete(key)
        finally:
            await self._forget(key)

    async def clear(self) -> int:
        """Remove every value from both; return how many the backend had."""
        try:
            return await self._backend.clear()
        finally:
            self._changes += 1
            await self._memory.clear()

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the backend's keys."""
        return self._backend.keys()

    async def stats(self) -> StoreStats:
        """Count what the backend holds; `memory_stats` counts the copies."""
        return await self._backend.stats()

    async def memory_stats(self) -> StoreStats:
        """Count what stands in memory."""
        return await self._memory.stats()

    async def aclose(self) -> None:
        """Close both."""
        try:
            await self._backend.aclose()
        finally:
            await self._memory.aclose()

    async def _forget(self, key: str) -> None:
        self._changes += 1
        await self._memory.delete(key)
