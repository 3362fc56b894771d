"""The circuit breaker in front of a store across the network: after a fault it is left alone for a while. Pure."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sfumato.cache.store import StoreUnavailableError


class CircuitOpenError(StoreUnavailableError):
    """The store failed a moment ago and was not asked."""


class Circuit:
    """Let calls through until one fails, then none until the back-off is over, then one to try.

    The back-off is drawn from 0 to a ceiling (full jitter, so that the processes of a fleet come back one by one),
    and the ceiling doubles with each opening that follows another within *cap_seconds*. Belongs to one event loop.

    Args:
        fault: What opens it, and is raised while it is open; None: whatever is raised opens it, and
            `CircuitOpenError` is raised.
        clock: Seconds that only grow.
        random: Numbers from 0 to 1.
        base_seconds: The first ceiling.
        cap_seconds: The last ceiling.
    """

    def __init__(
        self,
        *,
        fault: type[StoreUnavailableError] | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
        base_seconds: float = 1.0,
        cap_seconds: float = 30.0,
    ) -> None:
        self._fault: type[Exception] = fault or Exception
        self._refusal: type[StoreUnavailableError] = fault or CircuitOpenError
        self._clock = clock
        self._random = random
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._ceiling = base_seconds
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
            raise self._refusal("The store failed a moment ago; it is not asked again yet.")

    @contextmanager
    def passing(self, answers: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Guard one call: a fault from inside opens the circuit, an answer to the trial closes it.

        Args:
            answers: Exceptions that are answers: the store works.

        Raises:
            StoreUnavailableError: The circuit is open; the call must not be made.
        """
        self.check()
        # A cancelled trial says nothing: the next call tries again.
        trial = self._trying = self._try_at is not None
        try:
            yield
        except answers:
            self._answered(trial=trial)
            raise
        except self._fault:
            self._failed(trial=trial)
            raise
        else:
            self._answered(trial=trial)
        finally:
            if trial:
                self._trying = False

    def _answered(self, *, trial: bool) -> None:
        # The answer to an earlier call may have been on its way since before the fault.
        if trial:
            self._try_at, self._closed_at = None, self._clock()

    def _failed(self, *, trial: bool) -> None:
        # Calls that were under way when the circuit opened do not prolong it.
        if not trial and self._try_at is not None:
            return
        now = self._clock()
        calm = not trial and now - self._closed_at > self._cap_seconds
        self._ceiling = min(self._cap_seconds, self._base_seconds if calm else 2 * self._ceiling)
        self._try_at = now + self._ceiling * self._random()
