"""When to try again: pure arithmetic of attempts, delays and the deadline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.errors import (
    DeadlineError,
    ImageError,
    NetworkError,
    NoImageError,
    ServiceUnavailableError,
    UpstreamFailureError,
)
from sfumato.upstream.cooling import cooling_class
from sfumato.wire.gemini import MALFORMED, RETRIED_REASONS

_PASSING_FAULTS = (ServiceUnavailableError, UpstreamFailureError, NetworkError, DeadlineError)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds of repetition; times in seconds.

    Attributes:
        max_attempts: Attempts of one picture; those that only told of an account are not counted.
        base_delay_seconds: The longest first wait; each one after it is twice as long.
        max_delay_seconds: The longest wait of all. Who waits has a place that others want: where Google asks for more,
            the client is to wait.
    """

    max_attempts: int = 3
    base_delay_seconds: float = 0.5
    max_delay_seconds: float = 20.0

    def delay(
        self, failures: Sequence[ImageError], *, other_account: bool, remaining_seconds: float, jitter: float
    ) -> float | None:
        """Return the seconds to wait before the next attempt, None to give up.

        Google's guidance: repeat 408, 429 and 5xx with backoff, never 400, 402 or 403. Another account is tried at
        once; when it meets a passing fault as well, the fault is not the account's and the backoff begins. What only
        tells of an account cost nothing, and every account tells it once at most.

        Args:
            failures: What ended the attempts so far, in their order.
            other_account: Whether an account that was not tried yet is usable.
            remaining_seconds: Time left until the request's deadline.
            jitter: A random number in [0, 1): full jitter.
        """
        if is_of_account(failures[-1]):
            return 0.0 if other_account else None
        counted = [failure for failure in failures if not is_of_account(failure)]
        attempt, error = len(counted), counted[-1]
        if attempt >= self.max_attempts or not self._can_pass(counted):
            return None
        if other_account and attempt == 1 and remaining_seconds > 0:
            return 0.0
        delay = min(self.max_delay_seconds, self.base_delay_seconds * 2 ** (attempt - 1)) * jitter
        if error.upstream_delay is not None:
            # Not below our own backoff: "0s" has been told, and everybody would be back at once.
            delay = max(delay, error.upstream_delay)
        return delay if delay <= self.max_delay_seconds and delay < remaining_seconds else None

    @staticmethod
    def _can_pass(failures: Sequence[ImageError]) -> bool:
        error = failures[-1]
        if isinstance(error, NoImageError):
            again = sum(isinstance(failure, NoImageError) for failure in failures) > 1
            return not again and error.reason in RETRIED_REASONS
        # Unreadable and yet 200: it is billed like any other, so the client decides whether to ask again.
        return error.retryable and error.reason != MALFORMED and isinstance(error, _PASSING_FAULTS)


def is_of_account(failure: ImageError) -> bool:
    """Tell whether another account can answer where this one cannot; repeated on the same it only wastes a call."""
    return cooling_class(failure) is not None
