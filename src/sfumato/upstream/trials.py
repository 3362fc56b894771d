"""Which accounts are on trial: a refusal comes at once and a picture late, so one call goes ahead of a burst."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

TRIAL_SECONDS = 0.3

_Key = TypeVar("_Key", bound=Hashable)


class Trials(Generic[_Key]):
    """Remember who has worked since the last refusal, and who has one call out to learn that.

    Args:
        clock: Seconds that only grow.
        seconds: A call that was not refused for so long is taken for accepted.
    """

    def __init__(self, clock: Callable[[], float], seconds: float = TRIAL_SECONDS) -> None:
        self._clock = clock
        self._seconds = seconds
        self._passed: set[_Key] = set()
        self._began: dict[_Key, float] = {}

    def has_passed(self, key: _Key) -> bool:
        """Tell whether it is taken for working."""
        if self.is_on(key):
            return False
        if self._began.pop(key, None) is not None:
            self._passed.add(key)
        return key in self._passed

    def is_on(self, key: _Key) -> bool:
        """Tell whether a call is out whose refusal may still come."""
        began = self._began.get(key)
        return began is not None and self._clock() - began < self._seconds

    def begin(self, key: _Key) -> None:
        """Note a call; it is a trial unless the trial was passed."""
        if not self.has_passed(key):
            self._began[key] = self._clock()

    def settle(self, key: _Key, *, passed: bool | None) -> None:
        """End the trial; None where the call's end tells nothing."""
        self._began.pop(key, None)
        if passed:
            self._passed.add(key)
        elif passed is False:
            self._passed.discard(key)

    def first(self, keys: Collection[_Key]) -> _Key:
        """Return whose trial ends first; all of them are on trial."""
        return min(keys, key=self._began.__getitem__)

    def remaining_seconds(self, key: _Key) -> float:
        """Return how long until a trial is over."""
        return max(0.0, self._began[key] + self._seconds - self._clock())
