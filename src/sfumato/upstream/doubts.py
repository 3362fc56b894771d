"""Who met a fault that may pass: others go first for a while, and nobody is left out.

An account that fails has no running calls, so without this it would be every request's first choice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

_FIRST_SECONDS = 1.0
_LAST_SECONDS = 60.0
# Longer than connecting may take by default, and shorter than most pictures.
_TRY_SECONDS = 15.0

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(slots=True)
class _Doubt:
    until: float
    seconds: float = _FIRST_SECONDS
    tried: bool = False


class Doubts(Generic[_Key]):
    """Remember the last faults; the pause doubles while nothing but faults is met.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._doubts: dict[_Key, _Doubt] = {}

    def holds(self, key: _Key) -> bool:
        """Tell whether others go first."""
        doubt = self._doubts.get(key)
        return doubt is not None and doubt.until > self._clock()

    def begin(self, key: _Key) -> None:
        """Note a call; the first one after a pause goes alone."""
        doubt, now = self._doubts.get(key), self._clock()
        if doubt is not None and doubt.until <= now:
            doubt.until, doubt.tried = now + max(doubt.seconds, _TRY_SECONDS), True

    def add(self, key: _Key) -> None:
        """Note a fault; those of calls that ran side by side count once."""
        doubt, now = self._doubts.get(key), self._clock()
        if doubt is None:
            self._doubts[key] = _Doubt(now + _FIRST_SECONDS)
        elif doubt.tried or doubt.until <= now:
            seconds = min(_LAST_SECONDS, doubt.seconds * 2)
            self._doubts[key] = _Doubt(now + seconds, seconds)

    def clear(self, key: _Key) -> None:
        """Forget the faults: it works."""
        self._doubts.pop(key, None)
