"""What gauges show, and the counts of caches, asked for whenever somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from opentelemetry.metrics import CallbackOptions, Observation

from sfumato.telemetry import names
from sfumato.telemetry.names import Instrument
from sfumato.telemetry.vitals import STATES, Watch

Callback: TypeAlias = Callable[[CallbackOptions], Iterable[Observation]]


def gauges(watch: Watch) -> tuple[tuple[Instrument, Callback], ...]:
    """Return the instruments that show *watch*, each with what it shows."""

    def accounts(_: CallbackOptions) -> Iterable[Observation]:
        states = watch.states()
        # Without accounts there is nothing to say; with some, every state is told, so that alerts see zeros.
        return [Observation(states[state], {names.ACCOUNT_STATE: state}) for state in STATES if states]

    def lookups(_: CallbackOptions) -> Iterable[Observation]:
        counts = watch.counts()
        yield Observation(counts.hits, {names.CACHE_RESULT: "hit"})
        yield Observation(counts.misses, {names.CACHE_RESULT: "miss"})

    def hit_rate(_: CallbackOptions) -> Iterable[Observation]:
        counts = watch.counts()
        lookups = counts.hits + counts.misses
        return [Observation(counts.hits / lookups)] if lookups else []

    def size(_: CallbackOptions) -> Iterable[Observation]:
        sizes = [cache.size_bytes or 0 for cache in watch.sizes()]
        # Clients of one process share a persistent store: its size is not to be added up.
        return [Observation(max(sizes))] if sizes else []

    def capacity(_: CallbackOptions) -> Iterable[Observation]:
        shares = [(cache.size_bytes or 0) / cache.capacity_bytes for cache in watch.sizes() if cache.capacity_bytes]
        return [Observation(max(shares))] if shares else []

    def evictions(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(watch.counts().evictions)]

    def faults(_: CallbackOptions) -> Iterable[Observation]:
        for (operation, reason), count in watch.counts().faults.items():
            yield Observation(count, {names.CACHE_OPERATION: operation, names.CACHE_REASON: reason})

    return (
        (names.ACCOUNTS, accounts),
        (names.CACHE_LOOKUPS, lookups),
        (names.CACHE_HIT_RATE, hit_rate),
        (names.CACHE_SIZE, size),
        (names.CACHE_CAPACITY, capacity),
        (names.CACHE_EVICTIONS, evictions),
        (names.CACHE_FAULTS, faults),
    )
