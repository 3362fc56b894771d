"""How many calls the last minute had."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class MinuteWindow:
    """Count the calls of the last minute.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: deque[float] = deque()

    def __len__(self) -> int:
        self._forget()
        return len(self._calls)

    def add(self) -> None:
        """Count a call that begins now, and forget those that are over."""
        self._forget()
        self._calls.append(self._clock())

    def seconds_until_free(self, limit: int) -> float:
        """Return how long until a call more stays within *limit*; 0 when it does now."""
        excess = len(self) - limit
        if excess < 0:
            return 0.0
        return min(60.0, max(0.0, self._calls[excess] + 60.0 - self._clock()))

    def _forget(self) -> None:
        now = self._clock()
        while self._calls and now - self._calls[0] >= 60.0:
            self._calls.popleft()
