"""The store that keeps nothing: the cache switched off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from sfumato.cache.store import StoreStats
from sfumato.wire.payload import Piece


class NoopStore:
    """Keep nothing; every lookup is a miss and nothing fails."""

    async def get(self, key: str) -> bytes | None:  # noqa: ARG002 - the protocol names it
        """Return None."""
        return None

    async def peek(self, key: str, size: int) -> bytes | None:  # noqa: ARG002
        """Return None."""
        return None

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:  # noqa: ARG002
        """Drop the value and return False."""
        return False

    async def delete(self, key: str) -> bool:  # noqa: ARG002
        """Return False."""
        return False

    async def clear(self) -> int:
        """Return 0."""
        return 0

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over nothing."""
        nothing: tuple[str, ...] = ()
        for key in nothing:
            yield key

    async def stats(self) -> StoreStats:
        """Return zeros."""
        return StoreStats(capacity_bytes=0)

    async def aclose(self) -> None:
        """Do nothing."""
