"""The circuit of Redis: after a fault nobody waits for it again until it had time to come back."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StoreUnavailableError(OSError):
    """The store does not answer, or is not asked because it did not answer a moment ago."""


class StoreFullError(StoreUnavailableError):
    """The store answers and takes no more values."""


class Circuit:
    """Let calls through until one fails, then none until the back-off is over, then one to try.

    The back-off is drawn from 0 to a ceiling (full jitter, so that the processes of a fleet come back one by one),
    and the ceiling doubles with each opening that follows another within *cap_seconds*.

    Args:
        fault: What opens it, and is raised while it is open.
        clock: Seconds that only grow.
        random: Numbers from 0 to 1.
        base_seconds: The first ceiling.
        cap_seconds: The last ceiling.
    """

    def __init__(
        self,
        *,
        fault: type[StoreUnavailableError] = StoreUnavailableError,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
        base_seconds: float = 1.0,
        cap_seconds: float = 30.0,
    ) -> None:
        self._fault = fault
        self._clock = clock
        self._random = random
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._openings = 0
        self._closed_at = -math.inf
        self._try_at: float | None = None
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Tell whether a call would be refused now."""
        return self._try_at is not None and (self._trying or self._clock() < self._try_at)

    def check(self) -> None:
        """Refuse at once what would be refused anyway.

        Raises:
            StoreUnavailableError: The circuit is open.
        """
        if self.is_open:
            raise self._fault("The store failed a moment ago; it is not asked again yet.")

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Guard one call: a *fault* from inside opens the circuit, a good end of the trial closes it.

        Raises:
            StoreUnavailableError: The circuit is open; the call must not be made.
        """
        self.check()
        # A cancelled trial says nothing: the next call tries again.
        trial = self._trying = self._try_at is not None
        try:
            yield
        except self._fault:
            # Calls that were under way when the circuit opened do not prolong it.
            if trial or self._try_at is None:
                self._open()
            raise
        else:
            if trial:
                self._try_at, self._closed_at = None, self._clock()
        finally:
            if trial:
                self._trying = False

    def _open(self) -> None:
        now = self._clock()
        if self._try_at is None and now - self._closed_at > self._cap_seconds:
            self._openings = 0
        ceiling = min(self._cap_seconds, self._base_seconds * 2.0**self._openings)
        # Counted no further than the cap needs: 2.0**1024 overflows.
        self._openings += ceiling < self._cap_seconds
        self._try_at = now + ceiling * self._random()
