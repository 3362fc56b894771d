"""The store in this process's memory: fast, private to the process, gone with it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from anyio import to_thread
from cachetools import Cache, TLRUCache

from sfumato.cache.store import WHOLE_BYTES, StoreStats
from sfumato.wire.payload import INLINE_BYTES, Piece, join, size_of
from sfumato.wire.pieces import read


class MemoryValue:
    """A large value as it is held: whoever reads it copies only what is read, and its bytes are checked once.

    Args:
        data: The value.
    """

    __slots__ = ("_checking", "_data", "vouched")

    def __init__(self, data: bytes) -> None:
        self.vouched = False
        self._data = data
        self._checking = threading.Lock()

    def __len__(self) -> int:
        """Return how many bytes it has."""
        return len(self._data)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to *stop*."""
        return self._data[start:stop]

    read_now = read

    def vouch(self, check: Callable[[], None]) -> None:
        """Run *check* on the bytes unless they have passed one; call it in a thread."""
        with self._checking:
            if not self.vouched:
                check()
                self.vouched = True


class MemoryStore:
    """Keep values in memory, the least recently used making room; safe to share between threads and event loops.

    Args:
        max_bytes: The budget for the values' bytes; keys and bookkeeping (under 1 KB an entry) come on top.
        timer: Seconds that only grow.
    """

    def __init__(self, max_bytes: int, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._values = _CountingCache(max_bytes, timer)
        # cachetools is not safe for use by several threads.
        self._lock = threading.Lock()

    async def get(self, key: str) -> bytes | MemoryValue | None:
        """Return the value, or None when there is none or its time is over."""
        with self._lock:
            # cachetools keeps the bytes of expired values until somebody asks it to let go.
            self._values.expire()
            # Asked for and caught: `in` first would let the time run out between the two steps.
            try:
                return self._values[key].data
            except KeyError:
                return None

    async def peek(self, key: str, size: int) -> bytes | None:
        """Return the first *size* bytes of the value, or None as `get`."""
        with self._lock:
            self._values.expire()
            held = self._values.peek(key)
        return None if held is None else read(held.data, 0, size)

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        """Store the *value* joined; True when it is kept."""
        size = size_of(value)
        lifetime = math.inf if expires_in is None else expires_in
        if size > self._values.maxsize or lifetime <= 0:
            await self.delete(key)
            return False
        data = await to_thread.run_sync(join, value) if size > INLINE_BYTES else join(value)
        with self._lock:
            self._values[key] = _Value(data if size <= WHOLE_BYTES else MemoryValue(data), lifetime)
        return True

    async def delete(self, key: str) -> bool:
        """Remove a value; True when there was one."""
        with self._lock:
            self._values.expire()
            try:
                del self._values[key]
            except KeyError:
                return False
            return True

    async def clear(self) -> int:
        """Remove every value; return how many there were."""
        with self._lock:
            self._values.expire()
            count = len(self._values)
            self._values.clear()
            return count

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys held when the iteration began."""
        with self._lock:
            keys = list(self._values)
        for key in keys:
            yield key

    async def stats(self) -> StoreStats:
        """Count what is held."""
        with self._lock:
            self._values.expire()
            return StoreStats(
                entries=len(self._values),
                size_bytes=int(self._values.currsize),
                capacity_bytes=int(self._values.maxsize),
                evictions=self._values.evictions,
            )

    async def aclose(self) -> None:
        """Let go of every value."""
        await self.clear()


class _Value(NamedTuple):
    data: bytes | MemoryValue
    lifetime: float


class _CountingCache(TLRUCache[str, _Value]):
    """Count what is pushed out for room: cachetools calls `popitem` for that and for nothing else."""

    def __init__(self, max_bytes: int, timer: Callable[[], float]) -> None:
        super().__init__(
            max_bytes,
            ttu=lambda _key, value, now: now + value.lifetime,
            timer=timer,
            getsizeof=lambda value: len(value.data),
        )
        self.evictions = 0

    def peek(self, key: str) -> _Value | None:
        """Return a value without changing the order of use."""
        return Cache.__getitem__(self, key) if key in self else None

    def popitem(self) -> tuple[str, _Value]:
        self.evictions += 1
        return super().popitem()
