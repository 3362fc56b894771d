"""The circuit breaker in front of a store across the network: after a failure it is left alone for a while. Pure."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 30.0


class CircuitOpenError(ConnectionError):
    """The store failed a moment ago and was not asked."""


class Circuit:
    """Decide whether a store is asked: closed until the first failure, then open except for one probe at a time.

    The wait for a probe is drawn between 0 and a bound (full jitter, so that processes do not probe together), which
    doubles with each failed probe and is the first one again after a success. Belongs to one event loop.

    Args:
        clock: Seconds that only grow.
        random: Draws from 0 to 1.
        first_seconds: The bound after the first failure.
        longest_seconds: What the bound does not exceed.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
        first_seconds: float = FIRST_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        self._clock = clock
        self._random = random
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        # None while closed, else the bound that the wait was drawn under.
        self._bound_seconds: float | None = None
        self._probe_at = 0.0
        self._probing = False

    def allow(self) -> bool:
        """Tell whether to ask; after True while open the caller is the probe and must report how it went."""
        if self._bound_seconds is None:
            return True
        if self._probing or self._clock() < self._probe_at:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """Close: an answer came, whoever asked."""
        self._bound_seconds = None
        self._probing = False

    def failed(self) -> None:
        """Open, or wait longer after a failed probe; failures of calls that began before it opened add nothing."""
        if self._bound_seconds is None:
            self._bound_seconds = self._first_seconds
        elif self._probing:
            self._bound_seconds = min(self._longest_seconds, 2 * self._bound_seconds)
        else:
            return
        self._probing = False
        self._probe_at = self._clock() + self._random() * self._bound_seconds

    def withdrawn(self) -> None:
        """Let the next caller probe: this one was cancelled and learned nothing."""
        self._probing = False

    @contextmanager
    def call(self, answers: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Ask within this context; how it ends is reported.

        Args:
            answers: Exceptions that are answers: the store works.

        Raises:
            CircuitOpenError: The store is not to be asked now.
        """
        if not self.allow():
            raise CircuitOpenError("the store failed a moment ago and is not asked")
        try:
            yield
        except answers:
            self.succeeded()
            raise
        except Exception:
            self.failed()
            raise
        except BaseException:
            self.withdrawn()
            raise
        self.succeeded()
