from __future__ import annotations

import pickle
from itertools import combinations

import pytest

from sfumato import errors
from sfumato.errors import ImageError, leaves, outranks

# Requirements, section 8: code, error_type, category, HTTP status, OpenAI type, OpenAI code.
TABLE = """
IMG_MISSING_PROMPT      client  USER_ERROR    400 invalid_request_error       missing_required_parameter
IMG_INVALID_PARAMETER   client  USER_ERROR    400 invalid_request_error       invalid_value
IMG_INVALID_IMAGE       client  USER_ERROR    400 invalid_request_error       invalid_image
IMG_PAYLOAD_TOO_LARGE   client  USER_ERROR    413 invalid_request_error       payload_too_large
IMG_MODEL_NOT_FOUND     client  USER_ERROR    404 invalid_request_error       model_not_found
IMG_UNAUTHORIZED        client  USER_ERROR    401 invalid_request_error       invalid_api_key
IMG_SAFETY_BLOCKED      client  API_ERROR     400 image_generation_user_error moderation_blocked
IMG_RATE_LIMITED        quota   API_ERROR     429 rate_limit_error            rate_limit_exceeded
IMG_QUOTA_EXHAUSTED     quota   API_ERROR     429 insufficient_quota          insufficient_quota
IMG_NO_IMAGE            server  API_ERROR     502 server_error                no_image
IMG_UPSTREAM_ERROR      server  API_ERROR     502 server_error                upstream_error
IMG_SERVICE_UNAVAILABLE server  API_ERROR     503 server_error                service_unavailable
IMG_UPSTREAM_AUTH       server  SYSTEM_ERROR  500 server_error                upstream_auth
IMG_NETWORK_ERROR       network NETWORK_ERROR 502 server_error                network_error
IMG_TIMEOUT             network NETWORK_ERROR 504 server_error                timeout
IMG_OVERLOADED          server  SYSTEM_ERROR  503 server_error                overloaded
IMG_CONFIGURATION       server  SYSTEM_ERROR  500 server_error                configuration
IMG_INTERNAL            server  SYSTEM_ERROR  500 server_error                internal
"""
ROWS = {row[0]: row[1:] for row in (line.split() for line in TABLE.strip().splitlines())}
LEAVES = {leaf.code: leaf for leaf in leaves()}
WITH_RETRY_AFTER = {"IMG_RATE_LIMITED", "IMG_SERVICE_UNAVAILABLE", "IMG_OVERLOADED"}
RETRYABLE = {*WITH_RETRY_AFTER, "IMG_NO_IMAGE", "IMG_UPSTREAM_ERROR", "IMG_NETWORK_ERROR", "IMG_TIMEOUT"}

each_leaf = pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)


def test_the_tree_has_exactly_the_codes_of_the_table() -> None:
    assert LEAVES.keys() == ROWS.keys()
    assert len(leaves()) == len(LEAVES)


def test_the_drawing_of_the_tree_names_every_leaf_with_its_status() -> None:
    drawing = errors.__doc__ or ""
    for leaf in leaves():
        (line,) = (line for line in drawing.splitlines() if f" {leaf.__name__} " in line)
        assert line.split()[-2:] == [leaf.code, str(leaf.status)]


@each_leaf
def test_every_leaf_carries_its_row(leaf: type[ImageError]) -> None:
    error = leaf("What to do next.")
    row = [error.error_type, error.category, str(error.status), error.openai_type, error.openai_code]
    assert row == ROWS[leaf.code]
    assert error.retryable is (leaf.code in RETRYABLE)
    assert (error.retry_after is not None) is (leaf.code in WITH_RETRY_AFTER)
    assert error.upstream_delay is None
    assert error.resolution.endswith(".")
    assert str(error) == error.message == "What to do next."


@each_leaf
def test_every_leaf_survives_pickling_whole(leaf: type[ImageError]) -> None:
    error = leaf(
        "message",
        param="size",
        reason="PER_DAY",
        retry_after=1.5,
        retryable=True,
        openai_code="other",
        ratings=({"category": "HARM_CATEGORY_HARASSMENT"},),
    )
    error.attempts = 3
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert type(copy) is leaf
    assert copy.args == error.args
    assert vars(copy) == vars(error)


def test_given_values_override_the_row() -> None:
    error = errors.ServiceUnavailableError("m", retry_after=0.0, retryable=False, openai_code="busy")
    assert (error.retry_after, error.upstream_delay, error.retryable, error.openai_code) == (0.0, 0.0, False, "busy")


@each_leaf
def test_an_error_is_worth_repeating_when_it_passes_and_was_not_repeated_here(leaf: type[ImageError]) -> None:
    error = leaf("m")
    assert error.worth_repeating is error.retryable
    error.attempts = 2
    # A rate limit met on two accounts was never waited for: waiting for it still helps.
    assert error.worth_repeating is (leaf.code == "IMG_RATE_LIMITED")


def test_blocked_outranks_quota_and_quota_outranks_the_rest() -> None:
    ranks = {code: 2 if code == "IMG_SAFETY_BLOCKED" else int(ROWS[code][0] == "quota") for code in LEAVES}
    for one, two in combinations(LEAVES, 2):
        assert outranks(LEAVES[one]("m"), LEAVES[two]("m")) is (ranks[one] > ranks[two])
        assert outranks(LEAVES[two]("m"), LEAVES[one]("m")) is (ranks[two] > ranks[one])
