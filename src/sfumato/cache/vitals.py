"""What one process counts of its cache, to be read at any time, from any thread, without asking the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from sfumato.cache.faults import CacheFault
from sfumato.cache.store import StoreStats


@dataclass(slots=True)
class CacheVitals:
    """Counts since the process began.

    Attributes:
        hits, misses: What became of the pictures that were looked for; bypassed lookups do not count. They only grow.
        evictions: Pictures pushed out for room by this process, as of the last look at the store.
        faults: Faults by operation and reason; a lookup's fault is a miss as well.
        size_bytes: What the store holds, as of the last look at it; None when that is not known.
        capacity_bytes: The store's budget, None when it has none of its own or that is not known.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    faults: dict[tuple[str, str], int] = field(default_factory=dict)
    size_bytes: int | None = None
    capacity_bytes: int | None = None

    @property
    def lookups(self) -> int:
        """Add up hits and misses."""
        return self.hits + self.misses

    def note_lookup(self, *, hit: bool) -> None:
        """Count what became of a picture that was looked for."""
        if hit:
            self.hits += 1
        else:
            self.misses += 1

    @property
    def fault_count(self) -> int:
        """Add up the faults."""
        return sum(self.faults.values())

    def note_fault(self, fault: CacheFault) -> None:
        """Count a fault."""
        name = (fault.operation, fault.reason)
        self.faults[name] = self.faults.get(name, 0) + 1

    def note_store(self, stats: StoreStats | None) -> None:
        """Keep what a look at the store showed, None when it did not answer."""
        self.size_bytes = stats.size_bytes if stats else None
        self.capacity_bytes = stats.capacity_bytes if stats else None
        self.evictions = max(self.evictions, stats.evictions) if stats else self.evictions
