"""Whose turn it is: everyone's share of the calls by weight, however many run at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

# A due that is whole but for the floats' last digits is whole.
_TOLERANCE = 1e-9

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(slots=True)
class _Row:
    weight: float
    running: int = 0
    served: float = 0.0


class Turns(Generic[_Key]):
    """Count the running calls of each, and tell who is next.

    Args:
        weights: Everyone's weight, above 0.
    """

    def __init__(self, weights: Mapping[_Key, float]) -> None:
        self._rows = {key: _Row(weight) for key, weight in weights.items()}
        self._line = list(weights)
        self._served = 0.0

    @property
    def line(self) -> Collection[_Key]:
        """Return all, the one that waited longest first."""
        return self._line

    def running(self, key: _Key) -> int:
        """Return how many calls are under way."""
        return self._rows[key].running

    def next(self, candidates: Collection[_Key], *, among: Collection[_Key], doubtful: Callable[[_Key], bool]) -> _Key:
        """Choose one of *candidates*; the first in them where all is equal.

        Nobody runs more calls than its share of all those *among* whom the work is shared, rounded up, while another
        one runs fewer. Weights over running calls alone would mean little while few calls run: of two calls at a time
        each of two accounts would have one.

        Args:
            candidates: Who may be chosen.
            among: Who shares the work now; the candidates are some of them.
            doubtful: Who is chosen only where all candidates are doubtful.
        """
        rows = [self._rows[key] for key in among]
        weights = sum(row.weight for row in rows)
        calls = 1 + sum(row.running for row in rows)

        def preference(key: _Key) -> tuple[bool, float, float]:
            row = self._rows[key]
            due = math.ceil(calls * row.weight / weights - _TOLERANCE)
            return doubtful(key), max(0, row.running + 1 - due) / row.weight, max(row.served, self._served)

        return min(candidates, key=preference)

    def take(self, key: _Key) -> None:
        """Note a call that begins."""
        row = self._rows[key]
        # Start-time fair queueing: of equally busy accounts each gets its share, and none is owed for its rest.
        self._served = max(row.served, self._served)
        row.served = self._served + 1 / row.weight
        row.running += 1
        self._line.remove(key)
        self._line.append(key)

    def give_back(self, key: _Key) -> None:
        """Note a call that ended."""
        self._rows[key].running -= 1
