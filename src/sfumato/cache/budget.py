"""The byte budget of a store that several processes write to and none keeps count of. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Eviction goes down to this share of the budget, so that it is not needed again at the next write.
_KEPT_SHARE = 0.9
# After writing this share a process lists the whole store, for only so it sees what others wrote.
_UNSEEN_SHARE = 1 / 16


class Held(NamedTuple):
    """One value of a listing, ordered by the time of its last use in Unix seconds."""

    used_at: float
    size: int
    path: str


class Budget:
    """Tell when a process should list the store again, and which values must go then.

    Args:
        max_bytes: For all values of all processes.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.evictions = 0
        # The bytes at the last listing (None before it) and those written by this process since.
        self._seen: int | None = None
        self._unseen = 0

    def wrote(self, size: int) -> bool:
        """Count a write and tell whether to list now; what it replaced stays counted: too much is the safe side."""
        self._unseen += size
        known = self._seen is not None and self._seen + self._unseen <= self.max_bytes
        return not known or self._unseen > self.max_bytes * _UNSEEN_SHARE

    def unseen(self) -> int:
        """Return the bytes written since the last listing; call it before the next one begins."""
        return self._unseen

    def looked(self, total: int | None, unseen: int) -> None:
        """Take over what a listing and the eviction after it left, None when they failed: the next try waits its share.

        Args:
            total: The bytes that stay.
            unseen: What `unseen` returned before; later writes may or may not be in the total and stay counted.
        """
        self._seen = (self._seen or 0) if total is None else total
        self._unseen -= unseen

    def victims(self, held: Iterable[Held]) -> tuple[list[Held], int]:
        """Return the values that must go, the least recently used, and the bytes of the others."""
        values = sorted(held)
        total = sum(value.size for value in values)
        goal = self.max_bytes * _KEPT_SHARE if total > self.max_bytes else total
        count = 0
        while total > goal:
            total -= values[count].size
            count += 1
        return values[:count], total
