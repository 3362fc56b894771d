"""The port of every cache backend: bytes under keys for seconds. A store never knows what the bytes mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sfumato.wire.payload import Piece
from sfumato.wire.pieces import ReadableNow

# Up to this size a value is given out whole where it could also be read as it is needed.
WHOLE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """What a store holds.

    Attributes:
        entries: Values held, expired ones that are not yet swept included.
        size_bytes: What they take of the capacity.
        capacity_bytes: The budget, None when the store has none of its own.
        evictions: Values pushed out for room by this process since it began; expired ones do not count.
    """

    entries: int = 0
    size_bytes: int = 0
    capacity_bytes: int | None = None
    evictions: int = 0


class DamagedValueError(Exception):
    """A value was there and was not what had been stored; the store has removed it."""


class StoreUnavailableError(OSError):
    """The store does not answer, or is not asked because it did not answer a moment ago."""


class StoreFullError(StoreUnavailableError):
    """The store answers and takes no more values."""


class StoredBlob(ReadableNow, Protocol):
    """A value that is read as it is needed, and stays whole when it is removed or replaced meanwhile."""

    @property
    def vouched(self) -> bool:
        """Tell whether these very bytes have passed a check."""
        ...

    def vouch(self, check: Callable[[], None]) -> None:
        """Run *check* on these bytes unless they have passed one; call it in a thread.

        What it raises passes through, and the bytes have not passed.
        """
        ...


class Store(Protocol):
    """Keep values by key, each for its own time, within the store's own budget.

    Every method may raise what its medium raises (``OSError``, a client library's errors); `ImageCache` turns all of
    it into misses. `get` counts as use: the least recently used values make room for new ones.
    """

    async def get(self, key: str) -> bytes | StoredBlob | None:
        """Return the value, or None when there is none or its time is over.

        One above `WHOLE_BYTES` may come as a blob, so that it need not be in memory.

        Raises:
            DamagedValueError: The stored bytes are damaged or foreign; they have been removed.
        """
        ...

    async def peek(self, key: str, size: int) -> bytes | None:
        """Return the first *size* bytes of the value or all of a shorter one, None as `get`; it is no use.

        No more than that is read, and checked.

        Raises:
            DamagedValueError: The stored bytes are damaged or foreign; they have been removed.
        """
        ...

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        """Store the *value* in place of an older one; True when it is kept.

        A value larger than the whole budget, or one whose time is over, is not kept, and neither is the older one.

        Args:
            key: Any text.
            value: Pieces, stored as one value; the caller does not change them meanwhile.
            expires_in: Seconds from now, None for no end.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove a value; True when there was one."""
        ...

    async def clear(self) -> int:
        """Remove every value; return how many there were."""
        ...

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys whose time is not over, in no order; keys set meanwhile may be missing."""
        ...

    async def stats(self) -> StoreStats:
        """Count what is held."""
        ...

    async def aclose(self) -> None:
        """Release connections and handles; the values of a persistent store stay. Closing twice is harmless."""
        ...
