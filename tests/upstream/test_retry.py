from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import (
    ConfigurationError,
    DeadlineError,
    ImageError,
    InternalError,
    InvalidImageError,
    InvalidParameterError,
    MissingPromptError,
    ModelNotFoundError,
    NetworkError,
    NoImageError,
    OverloadedError,
    PayloadTooLargeError,
    QuotaExhaustedError,
    RateLimitedError,
    SafetyBlockedError,
    ServiceUnavailableError,
    UnauthorizedError,
    UpstreamAuthError,
    UpstreamFailureError,
    leaves,
)
from sfumato.upstream.retry import RetryPolicy
from sfumato.wire.gemini_errors import parse_error

ANOTHER_ACCOUNT = (RateLimitedError, QuotaExhaustedError, UpstreamAuthError)
BACKOFF = (ServiceUnavailableError, UpstreamFailureError, NetworkError, DeadlineError)
NEVER = (
    MissingPromptError,
    InvalidParameterError,
    InvalidImageError,
    PayloadTooLargeError,
    ModelNotFoundError,
    UnauthorizedError,
    SafetyBlockedError,
    OverloadedError,
    ConfigurationError,
    InternalError,
)


def delay(
    error: ImageError,
    *,
    attempt: int = 1,
    before: Sequence[ImageError] | None = None,
    other_account: bool = False,
    remaining: float = 300.0,
    jitter: float = 0.5,
    policy: RetryPolicy | None = None,
) -> float | None:
    """Ask for the delay after *error*, which *before* came ahead of: so many faults that pass, unless they are told."""
    failures = [NetworkError("m")] * (attempt - 1) if before is None else before
    return (policy or RetryPolicy()).delay(
        [*failures, error], other_account=other_account, remaining_seconds=remaining, jitter=jitter
    )


def test_every_error_has_its_place_in_this_table() -> None:
    assert {*ANOTHER_ACCOUNT, *BACKOFF, *NEVER, NoImageError} == set(leaves())


@pytest.mark.parametrize("kind", ANOTHER_ACCOUNT)
def test_another_account_is_tried_at_once_and_the_same_never(kind: type[ImageError]) -> None:
    for error in (kind("m"), kind("m", retry_after=0.1)):
        assert delay(error, other_account=True) == 0.0
        assert delay(error, other_account=False) is None
        # It costs nothing; accounts end before patience does.
        assert delay(error, other_account=True, before=[error] * 20) == 0.0
        assert delay(error, other_account=True, policy=RetryPolicy(max_attempts=1)) == 0.0


@pytest.mark.parametrize("kind", [ModelNotFoundError, ConfigurationError])
def test_another_account_is_tried_for_a_model_that_this_one_lacks(kind: type[ImageError]) -> None:
    assert delay(kind("m", reason="unavailable"), other_account=True) == 0.0
    assert delay(kind("m", reason="unavailable")) is None


def test_refused_accounts_are_not_counted_among_the_attempts() -> None:
    refusals = [RateLimitedError("m"), UpstreamAuthError("m"), ModelNotFoundError("m", reason="unavailable")]
    assert delay(ServiceUnavailableError("m"), before=refusals) == 0.25
    assert delay(ServiceUnavailableError("m"), before=[*refusals, NetworkError("m")]) == 0.5
    assert delay(ServiceUnavailableError("m"), before=[*refusals, NetworkError("m"), NetworkError("m")]) is None


@pytest.mark.parametrize("kind", NEVER)
def test_what_cannot_pass_is_never_tried_again(kind: type[ImageError]) -> None:
    for error in (kind("m"), kind("m", retryable=True, retry_after=0.0)):
        assert delay(error, other_account=True) is None


@pytest.mark.parametrize("kind", BACKOFF)
def test_passing_faults_wait_longer_each_time(kind: type[ImageError]) -> None:
    policy = RetryPolicy(max_attempts=10)
    waits = [delay(kind("m"), attempt=attempt, jitter=1.0, policy=policy) for attempt in range(1, 10)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0]
    assert delay(kind("m"), jitter=0.0) == 0.0
    assert delay(kind("m", retryable=False)) is None


@pytest.mark.parametrize("kind", [*BACKOFF, NoImageError])
def test_another_account_takes_over_at_once_and_then_the_backoff_begins(kind: type[ImageError]) -> None:
    """The second account that meets it tells that the fault is not the account's."""
    for told in (None, 12.5):
        error = kind("m", reason="NO_IMAGE", retry_after=told)
        assert delay(error, other_account=True) == 0.0
        assert delay(error, other_account=True, remaining=0.0) is None
        if kind is not NoImageError:
            assert delay(error, other_account=True, attempt=2) == (told or 0.5)


@pytest.mark.parametrize(
    ("status", "again"),
    [(400, False), (402, False), (403, False), (404, False), (408, True), (413, False), (429, False)]
    + [(status, True) for status in (500, 502, 503, 504)],
)
def test_googles_statuses_are_tried_again_on_the_same_account_or_not(status: int, again: bool) -> None:  # noqa: FBT001  # a column
    assert (delay(parse_error(status, b"{}")) is not None) == again


def test_google_s_own_delay_comes_first() -> None:
    error = ServiceUnavailableError("m", retry_after=12.5)
    assert delay(error) == 12.5
    # "At once" is no reason for all to come back together.
    assert delay(ServiceUnavailableError("m", retry_after=0.0)) == 0.25
    # The row's default is for clients; our own backoff is for us.
    assert delay(ServiceUnavailableError("m")) == 0.25


def test_a_long_delay_is_the_clients_to_wait() -> None:
    """Who waits here has a place that others want."""
    assert delay(ServiceUnavailableError("m", retry_after=20.0)) == 20.0
    assert delay(ServiceUnavailableError("m", retry_after=20.1)) is None
    assert delay(ServiceUnavailableError("m", retry_after=20.1), other_account=True) == 0.0


def test_nothing_waits_past_the_deadline() -> None:
    error = ServiceUnavailableError("m", retry_after=10.0)
    assert delay(error, remaining=10.1) == 10.0
    assert delay(error, remaining=10.0) is None
    assert delay(NetworkError("m"), remaining=0.0, jitter=0.0) is None
    assert delay(NetworkError("m"), remaining=-1.0) is None


@pytest.mark.parametrize("reason", ["NO_IMAGE", "IMAGE_OTHER", "OTHER"])
def test_no_image_is_tried_once_more(reason: str) -> None:
    error = NoImageError("m", reason=reason)
    assert delay(error) == 0.25
    assert delay(error, before=[error]) is None
    assert delay(error, before=[ServiceUnavailableError("m")]) == 0.5
    assert delay(error, before=[RateLimitedError("m")]) == 0.25
    assert delay(error, before=[error, ServiceUnavailableError("m")]) is None


@pytest.mark.parametrize("reason", ["TEXT_ONLY", "EMPTY", "MAX_TOKENS", "LANGUAGE", None])
def test_no_image_for_other_reasons_is_not(reason: str | None) -> None:
    assert delay(NoImageError("m", reason=reason)) is None


def test_one_attempt_means_one() -> None:
    for leaf in {*leaves()} - {*ANOTHER_ACCOUNT}:
        assert delay(leaf("m"), other_account=True, policy=RetryPolicy(max_attempts=1)) is None


@given(
    st.sampled_from(leaves()),
    st.integers(1, 12),
    st.booleans(),
    st.floats(-10, 400),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 1e6),
)
@settings(max_examples=300)
def test_delays_are_finite_bounded_and_inside_the_deadline(
    leaf: type[ImageError],
    attempt: int,
    other_account: bool,  # noqa: FBT001  # hypothesis passes it
    remaining: float,
    jitter: float,
    told: float | None,
) -> None:
    error = leaf("m", retry_after=told)
    policy = RetryPolicy(max_attempts=10)
    wait = delay(error, attempt=attempt, other_account=other_account, remaining=remaining, jitter=jitter, policy=policy)
    if wait is None:
        return
    assert attempt < 10 or leaf in ANOTHER_ACCOUNT
    assert math.isfinite(wait)
    assert 0 <= wait <= 20.0
    assert wait < remaining or wait == 0.0
