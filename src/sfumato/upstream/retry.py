"""When to try again: pure arithmetic of attempts, delays and the deadline."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.errors import (
    DeadlineError,
    ImageError,
    NetworkError,
    NoImageError,
    QuotaExhaustedError,
    RateLimitedError,
    ServiceUnavailableError,
    UpstreamAuthError,
    UpstreamFailureError,
)
from sfumato.wire.gemini import MALFORMED, RETRIED_REASONS

# Another account can answer where this one cannot; on the same account a repetition only wastes a call.
_ACCOUNT_FAULTS = (RateLimitedError, QuotaExhaustedError, UpstreamAuthError)
_PASSING_FAULTS = (ServiceUnavailableError, UpstreamFailureError, NetworkError, DeadlineError)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds of repetition; times in seconds."""

    max_attempts: int = 3
    base_delay_seconds: float = 0.5
    max_delay_seconds: float = 20.0

    def delay(
        self, error: ImageError, *, attempt: int, other_account: bool, remaining_seconds: float, jitter: float
    ) -> float | None:
        """Return the seconds to wait before the next attempt, None to give up.

        Google's guidance: repeat 408, 429 and 5xx with backoff, never 400, 402 or 403. Another account is tried at
        once; when it meets a passing fault as well, the fault is not the account's and the backoff begins.

        Args:
            error: What ended this attempt.
            attempt: Its number, from 1.
            other_account: Whether an account that was not tried yet is usable.
            remaining_seconds: Time left until the request's deadline.
            jitter: A random number in [0, 1): full jitter.
        """
        if attempt >= self.max_attempts or not self._can_pass(error, attempt, other_account=other_account):
            return None
        if isinstance(error, _ACCOUNT_FAULTS) or (other_account and attempt == 1 and remaining_seconds > 0):
            return 0.0
        delay = min(self.max_delay_seconds, self.base_delay_seconds * 2 ** (attempt - 1)) * jitter
        if error.upstream_delay is not None:
            delay = error.upstream_delay
        return delay if delay < remaining_seconds else None

    @staticmethod
    def _can_pass(error: ImageError, attempt: int, *, other_account: bool) -> bool:
        if isinstance(error, _ACCOUNT_FAULTS):
            return other_account
        if isinstance(error, NoImageError):
            return attempt == 1 and error.reason in RETRIED_REASONS
        # Unreadable and yet 200: it is billed like any other, so the client decides whether to ask again.
        return error.retryable and error.reason != MALFORMED and isinstance(error, _PASSING_FAULTS)
