"""How clients are between requests: what gauges show, asked for whenever somebody looks."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

STATES: Final = ("ready", "cooling", "parked")


class AccountCondition(Protocol):
    """How an account is."""

    @property
    def label(self) -> str:
        """Return its label."""
        ...

    @property
    def state(self) -> str:
        """Return ``ready``, ``cooling`` or ``parked``."""
        ...


class CacheVitals(Protocol):
    """What is counted of a cache, in this process, read whenever somebody asks and without asking the store."""

    @property
    def hits(self) -> int:
        """Return the hits so far."""
        ...

    @property
    def misses(self) -> int:
        """Return the misses so far."""
        ...

    @property
    def evictions(self) -> int:
        """Return how many pictures were pushed out for room so far."""
        ...

    @property
    def faults(self) -> Mapping[tuple[str, str], int]:
        """Return the faults so far by operation and reason."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """Return what the store holds, None when that is not known."""
        ...

    @property
    def capacity_bytes(self) -> int | None:
        """Return the store's budget, None when it has none or it is not known."""
        ...


class Vitals(Protocol):
    """A client that can be asked, between requests, how it is."""

    def account_states(self) -> Iterable[AccountCondition]:
        """Return how the accounts are."""
        ...

    def cache_vitals(self) -> CacheVitals:
        """Return the cache's counts, the same object at each call."""
        ...


class Watch:
    """Everything that is watched in this process, added up.

    Counts of a client that is gone stay: counters never go back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: list[tuple[weakref.ref[Vitals], CacheVitals]] = []
        self._gone = CacheCounts()

    def add(self, vitals: Vitals) -> None:
        """Watch *vitals* as long as somebody else keeps it; watching twice is watching once."""
        with self._lock:
            if all(known() is not vitals for known, _ in self._watched):
                self._watched.append((weakref.ref(vitals), vitals.cache_vitals()))

    def states(self) -> Counter[str]:
        """Count the accounts by state; one that several clients have counts once, by its worst state."""
        worst: dict[str, str] = {}
        for vitals in self._alive():
            for account in vitals.account_states():
                known = worst.get(account.label, account.state)
                worst[account.label] = max(known, account.state, key=STATES.index)
        return Counter(worst.values())

    def counts(self) -> CacheCounts:
        """Add up what the caches counted."""
        with self._lock:
            for known in [item for item in self._watched if item[0]() is None]:
                self._watched.remove(known)
                self._gone.add(known[1])
            total = CacheCounts()
            total.add(self._gone)
            for _, cache in self._watched:
                total.add(cache)
        return total

    def sizes(self) -> list[CacheVitals]:
        """Return the caches in use whose size is known."""
        return [cache for cache in (vitals.cache_vitals() for vitals in self._alive()) if cache.size_bytes is not None]

    def _alive(self) -> list[Vitals]:
        with self._lock:
            return [vitals for known, _ in self._watched if (vitals := known()) is not None]


class CacheCounts:
    """A sum of counts."""

    def __init__(self) -> None:
        self.hits = self.misses = self.evictions = 0
        self.faults: Counter[tuple[str, str]] = Counter()

    def add(self, counts: CacheVitals | CacheCounts) -> None:
        """Add *counts*."""
        self.hits += counts.hits
        self.misses += counts.misses
        self.evictions += counts.evictions
        # Requests go on counting meanwhile: the copy is made in one step.
        self.faults.update(dict(counts.faults))
