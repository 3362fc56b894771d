from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import (
    ConfigurationError,
    DeadlineError,
    ImageError,
    InvalidImageError,
    InvalidParameterError,
    ModelNotFoundError,
    PayloadTooLargeError,
    QuotaExhaustedError,
    RateLimitedError,
    ServiceUnavailableError,
    UpstreamAuthError,
    UpstreamFailureError,
)
from sfumato.wire.gemini_errors import machine_word, parse_error

TYPE = "type.googleapis.com/google.rpc."
HELP = {"@type": f"{TYPE}Help", "links": [{"description": "d", "url": "https://ai.google.dev/gemini-api/docs"}]}
KEY = "AIzaSyC4naryC4naryC4naryC4naryC4naryC4n"
FREE_TIER = "generativelanguage.googleapis.com/generate_content_free_tier_requests"


def info(reason: str, **metadata: str) -> dict[str, Any]:
    return {"@type": f"{TYPE}ErrorInfo", "reason": reason, "domain": "googleapis.com", "metadata": metadata}


def retry(delay: str) -> dict[str, Any]:
    return {"@type": f"{TYPE}RetryInfo", "retryDelay": delay}


def quota(*ids: str) -> dict[str, Any]:
    violations = [{"quotaMetric": "m", "quotaId": name, "quotaValue": "250"} for name in ids]
    return {"@type": f"{TYPE}QuotaFailure", "violations": violations}


def body(code: int, status: str, message: str, *details: dict[str, Any]) -> bytes:
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return json.dumps({"error": {**error, "details": list(details)} if details else error}).encode()


def bad_request(message: str, *details: dict[str, Any]) -> ImageError:
    return parse_error(400, body(400, "INVALID_ARGUMENT", message, *details))


def exhausted(message: str, *details: dict[str, Any]) -> ImageError:
    return parse_error(429, body(429, "RESOURCE_EXHAUSTED", message, *details))


@pytest.mark.parametrize(
    ("message", "details"),
    [
        ("API key not valid. Please pass a valid API key.", [info("API_KEY_INVALID")]),
        ("API key not valid. Please pass a valid API key.", []),
        ("API Key not found. Please pass a valid API key.", []),
        ("API key expired. Please renew the API key.", []),
        ("API key expired. Please renew the API key.", [info("API_KEY_INVALID")]),
        ("Something else.", [info("API_KEY_INVALID")]),
        (
            "API key not valid.",
            [{"@type": f"{TYPE}DebugInfo", "detail": f"Invalid API key: {KEY}"}, info("API_KEY_INVALID", key=KEY)],
        ),
    ],
)
def test_a_bad_key_is_a_400_and_our_trouble(message: str, details: list[dict[str, Any]]) -> None:
    error = bad_request(message, *details)
    assert isinstance(error, UpstreamAuthError)
    assert error.reason == ("API_KEY_INVALID" if details else "INVALID_ARGUMENT")
    assert KEY not in repr(vars(error))


def test_a_prompt_about_api_keys_is_not_a_bad_key() -> None:
    error = bad_request("Invalid value at 'contents[0].parts[0].text', \"Draw an API key\"")
    assert isinstance(error, InvalidParameterError)


@pytest.mark.parametrize(
    ("status", "rpc", "message", "details", "reason"),
    [
        (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", [], "UNAUTHENTICATED"),
        (401, "UNAUTHENTICATED", "m", [info("ACCESS_TOKEN_TYPE_UNSUPPORTED")], "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
        (401, "UNAUTHENTICATED", "m", [info("CREDENTIALS_MISSING", method="m")], "CREDENTIALS_MISSING"),
        (401, "UNAUTHENTICATED", "API keys are not supported by this API.", [], "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED", "m", [info("IAM_PERMISSION_DENIED", resource="r")], "IAM_PERMISSION_DENIED"),
        (403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers", [], "PERMISSION_DENIED"),
        (403, "PERMISSION_DENIED", "Your API key was reported as leaked.", [], "PERMISSION_DENIED"),
        (403, "PERMISSION_DENIED", "m", [info("SERVICE_DISABLED")], "SERVICE_DISABLED"),
        (403, "PERMISSION_DENIED", "m are blocked.", [info("API_KEY_SERVICE_BLOCKED")], "API_KEY_SERVICE_BLOCKED"),
        (403, "PERMISSION_DENIED", "m", [HELP, info("BILLING_DISABLED")], "BILLING_DISABLED"),
    ],
)
def test_refused_credentials_are_our_trouble(
    status: int, rpc: str, message: str, details: list[dict[str, Any]], reason: str
) -> None:
    error = parse_error(status, body(status, rpc, message, *details))
    assert isinstance(error, UpstreamAuthError)
    assert error.reason == reason
    assert not error.retryable


@pytest.mark.parametrize(
    "message",
    [
        "Provided image is not valid.",
        "Unable to process input image. Please retry or report in https://developers.generativeai.google/guide",
        "Unsupported MIME type: png",
        "Invalid value at 'contents[0].parts[2].inline_data.data' (TYPE_BYTES), Base64 decoding failed for \"data:im\"",
    ],
)
def test_a_picture_that_gemini_cannot_read(message: str) -> None:
    error = bad_request(message)
    assert isinstance(error, InvalidImageError)
    assert error.param == "image"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Invalid JSON payload received. Unknown name \"X\" at 'generation_config': Cannot find field.", "a field"),
        ("Multiple candidates is not enabled for this model", "several candidates"),
        ("Multiple candidates is not enabled for models/gemini-3-pro-image", "several candidates"),
        ("Media resolution is not enabled for this model", "media resolution"),
        ("Unsupported image_size '8K'. Supported values are: 1K, 2K, 4K, 512, 512P, 512PX.", "image size"),
        ("aspect_ratio must be one of '1:1', '1:4', or '21:9'", "aspect ratio"),
        ("* GenerateContentRequest.safety_settings[4]: element predicate failed: $.category in (…)", "safety category"),
        ("HARM_CATEGORY_CIVIC_INTEGRITY threshold cannot be 5", "safety category"),
        ("Image part is missing a thought_signature in content position 1, part position 2.", "thought signature"),
        ("Request contains an invalid argument.", "no reason that could be passed on"),
        ("", "no reason that could be passed on"),
    ],
)
def test_other_bad_requests_are_told_in_our_words(message: str, told: str) -> None:
    error = bad_request(message)
    assert isinstance(error, InvalidParameterError)
    assert told in error.message
    assert error.reason == "INVALID_ARGUMENT"


def test_a_location_that_is_not_served_is_configuration() -> None:
    error = parse_error(400, body(400, "FAILED_PRECONDITION", "User location is not supported for the API use."))
    assert isinstance(error, ConfigurationError)
    assert error.reason == "unavailable"


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, body(400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes.")),
        (413, b"<html>413 Request Entity Too Large</html>"),
    ],
)
def test_too_large_is_told_as_such(status: int, content: bytes) -> None:
    assert isinstance(parse_error(status, content), PayloadTooLargeError)


@pytest.mark.parametrize(
    "message",
    ["models/foo is not found for API version v1beta", "no longer available", "Publisher Model `p` was not found"],
)
def test_a_missing_model(message: str) -> None:
    error = parse_error(404, body(404, "NOT_FOUND", message))
    assert isinstance(error, ModelNotFoundError)
    assert (error.param, error.reason) == ("model", "unavailable")


@pytest.mark.parametrize(
    ("message", "details", "reason", "delay"),
    [
        ("m", [quota("GenerateRequestsPerMinutePerProjectPerModel"), retry("41s")], "per_minute", 41.0),
        (
            "m",
            [retry("45.837906927s"), quota("GenerateContentInputTokensPerModelPerMinute")],
            "per_minute",
            45.837906927,
        ),
        ("m", [retry("26s")], "per_minute", 26.0),
        ("m\nPlease retry in 856.559356ms.", [], "per_minute", 0.856559356),
        (
            "m\nPlease retry in 41.2s.",
            [quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")],
            "per_minute",
            41.2,
        ),
        # "At once" is no answer to give to everybody.
        ("m", [retry("0s")], "per_minute", 1.0),
        ("Resource has been exhausted (e.g. check quota).", [], "shared_capacity", None),
        (
            "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/x",
            [HELP],
            "shared_capacity",
            None,
        ),
        # Vertex AI tells its project's quota in the message alone.
        (
            "Quota exceeded for aiplatform.googleapis.com/generate_content_requests_per_minute_per_project, model x",
            [],
            "per_minute",
            None,
        ),
        ("m", [retry("soon")], "shared_capacity", None),
        ("Please retry in 1.2.3s", [], "shared_capacity", None),
        ("Please retry in .s", [], "shared_capacity", None),
        ("m", [retry("9" * 400 + "s")], "shared_capacity", None),
        ("Please retry in " + "9" * 5000 + "h1s", [], "shared_capacity", None),
        ("m", [{"retryDelay": ["41s"]}, {"retryDelay": None}], "shared_capacity", None),
    ],
)
def test_a_rate_limit_passes(message: str, details: list[dict[str, Any]], reason: str, delay: float | None) -> None:
    error = exhausted(message, *details)
    assert isinstance(error, RateLimitedError)
    assert (error.reason, error.upstream_delay) == (reason, delay)
    assert error.retryable
    assert error.retry_after is not None


PER_DAY = (
    "You exceeded your current quota. \n* Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_requests_per_model_per_day, limit: 250\nPlease retry in 1h52m56.4s."
)


PER_DAY_BODY = body(429, "RESOURCE_EXHAUSTED", "m", quota("GenerateRequestsPerDayPerProjectPerModel"))


@pytest.mark.parametrize(
    ("message", "details", "reason", "delay"),
    [
        (PER_DAY, [HELP, quota("GenerateRequestsPerDayPerProjectPerModel"), retry("6776s")], "per_day", 6776.0),
        (PER_DAY, [quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier")], "per_day", 6776.4),
        (PER_DAY, [], "per_day", 6776.4),
        ("m", [quota("XPerMinute", "GenerateRequestsPerDayPerProjectPerModel"), retry("26s")], "per_day", 26.0),
        ("Your prepayment credits are depleted.", [], "billing", None),
        ("Your project has exceeded its monthly spending cap.", [quota("XPerMinute"), retry("3s")], "billing", None),
        (
            f"* Quota exceeded for metric: {FREE_TIER}, limit: 0, model: m",
            [quota("XPerMinute"), retry("30s")],
            "billing",
            None,
        ),
    ],
)
def test_an_exhausted_quota_does_not_pass(
    message: str, details: list[dict[str, Any]], reason: str, delay: float | None
) -> None:
    error = exhausted(message, *details)
    assert isinstance(error, QuotaExhaustedError)
    assert (error.reason, error.upstream_delay) == (reason, delay)
    assert not error.retryable


def test_a_per_minute_id_beats_a_message_that_names_the_day() -> None:
    assert isinstance(exhausted(PER_DAY, quota("GenerateRequestsPerMinutePerProject")), RateLimitedError)
    limited = exhausted(f"* Quota exceeded for metric: {FREE_TIER}, limit: 10\nPlease retry in 2m3s.")
    assert (type(limited), limited.upstream_delay) == (RateLimitedError, 123.0)


def test_payment_required_is_billing() -> None:
    assert parse_error(402, b"").reason == "billing"


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (408, DeadlineError, True),
        (504, DeadlineError, True),
        (500, UpstreamFailureError, True),
        (502, UpstreamFailureError, True),
        (529, UpstreamFailureError, True),
        (499, UpstreamFailureError, False),
        (409, UpstreamFailureError, False),
        (302, UpstreamFailureError, False),
        (204, UpstreamFailureError, False),
    ],
)
@pytest.mark.parametrize("content", [b"", b"<html>Bad Gateway</html>", body(0, "INTERNAL", "An internal error.")])
def test_other_statuses(status: int, kind: type[ImageError], retryable: bool, content: bytes) -> None:  # noqa: FBT001  # a table's column
    error = parse_error(status, content)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.reason == ("INTERNAL" if b"INTERNAL" in content else None)


def test_unavailable_with_and_without_a_delay() -> None:
    for message in ("The model is overloaded. Please try again later.", "Deadline expired before operation"):
        error = parse_error(503, body(503, "UNAVAILABLE", message))
        assert type(error) is ServiceUnavailableError
        assert (error.upstream_delay, error.retry_after) == (None, 5.0)
    delayed = parse_error(503, body(503, "UNAVAILABLE", "m", retry("12.5s")))
    assert delayed.upstream_delay == delayed.retry_after == 12.5
    assert parse_error(503, body(503, "UNAVAILABLE", "m", retry("0s"))).retry_after == 1.0


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 1.0),
        ({"retry-after": "Sun, 22 Nov 2026 07:00:41 GMT", "date": "Sun, 22 Nov 2026 07:00:00 GMT"}, 41.0),
        ({"retry-after": "Sun, 22 Nov 2026 06:00:00 GMT", "date": "Sun, 22 Nov 2026 07:00:00 GMT"}, 1.0),
        # Nothing to count from, and no clock is read here.
        ({"retry-after": "Sun, 22 Nov 2026 07:00:41 GMT"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 07:00:41 GMT", "date": "Sun, 22 Nov 2026 07:00:00 -0000"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "\u0667"}, None),
        ({}, None),
    ],
)
def test_a_gateway_s_header_tells_the_delay_where_google_tells_none(
    headers: dict[str, str], delay: float | None
) -> None:
    for status, content in ((429, b"Too many requests"), (429, PER_DAY_BODY), (503, b"<html>Down</html>"), (503, b"")):
        assert parse_error(status, content, headers).upstream_delay == delay
        assert parse_error(status, body(status, "X", "m", retry("41.5s")), headers).upstream_delay == 41.5
    # A class is told by Google's words only.
    assert parse_error(429, b"Too many requests", headers).reason == "shared_capacity"


def test_a_403_that_is_not_google_s_says_nothing_of_the_account() -> None:
    for content in (b"<html>blocked</html>", b"", b"{}", b'{"error":{"code":403,"message":"Blocked by policy 7."}}'):
        error = parse_error(403, content)
        assert (type(error), error.reason) == (UpstreamFailureError, "refused_by_gateway")
        assert not error.retryable
        assert isinstance(parse_error(401, content), UpstreamAuthError)
    leaked = b'{"error":{"code":403,"message":"Your API key was reported as a leaked API key."}}'
    told = json.dumps({"error": {"code": 403, "details": [info("IAM_PERMISSION_DENIED")]}}).encode()
    assert isinstance(parse_error(403, leaked), UpstreamAuthError)
    assert isinstance(parse_error(403, told), UpstreamAuthError)


def test_a_one_element_array_is_read_like_the_object_in_it() -> None:
    plain = body(429, "RESOURCE_EXHAUSTED", "m", retry("41s"))
    error = parse_error(429, b"[" + plain + b"]")
    assert (type(error), error.upstream_delay) == (RateLimitedError, 41.0)


def test_the_older_list_of_errors_does_no_harm() -> None:
    document = json.loads(body(400, "INVALID_ARGUMENT", "API key not valid."))
    document["error"]["errors"] = [{"message": KEY, "domain": "global", "reason": "badRequest"}]
    error = parse_error(400, json.dumps(document).encode())
    assert isinstance(error, UpstreamAuthError)
    assert KEY not in repr(vars(error))


@pytest.mark.parametrize(
    "content",
    [
        b"[",
        b"[]",
        b"null",
        b'{"error":"text"}',
        b'{"error":{"details":5,"message":[],"status":{}}}',
        b'{"error":{"details":[5,{"violations":[5,{}],"reason":5}]}}',
        b'{"error":{"message":"\xff"}}',
        b"[" * 100_000,
        b'{"error":' * 50_000,
    ],
    ids=lambda content: repr(content[:40]),
)
@pytest.mark.parametrize("status", [400, 401, 429, 503])
def test_unreadable_bodies_are_still_errors_of_their_status(status: int, content: bytes) -> None:
    kinds = {400: InvalidParameterError, 401: UpstreamAuthError, 429: RateLimitedError, 503: ServiceUnavailableError}
    assert type(parse_error(status, content)) is kinds[status]


DATES = st.text(max_size=40) | st.text("Sun, 22 Nov 2026 07:00:41 GMT+-(", max_size=40)


@given(st.integers(100, 599), st.binary(max_size=80), st.fixed_dictionaries({"retry-after": DATES, "date": DATES}))
@settings(max_examples=300)
def test_any_bytes_are_read_without_a_crash(status: int, content: bytes, headers: dict[str, str]) -> None:
    assert isinstance(parse_error(status, content, headers), ImageError)


secrets = st.one_of(
    st.just("c4nary"),
    st.just("Hunter2c4nary"),
    st.just(KEY + "c4nary"),
    st.just("c4nary" + "QUJD" * 40),
    st.just("a prompt about c4nary, unquoted"),
    st.just("C4NARY-c4nary"),
)
FRAMES = (
    "{}",
    'Invalid value "{}"',
    "Invalid value '{}'",
    "Unknown name {}: Cannot find field.",
    "API key not valid: {}",
    "it's {}",
    "aspect_ratio {} image_size\n{}",
    "Quota exceeded, limit: 0 {} Please retry in {}s",
)
NAMES = ("message", "status", "details", "reason", "detail", "violations", "quotaId", "retryDelay", "metadata", "code")


@given(st.sampled_from([400, 401, 402, 403, 404, 408, 413, 429, 499, 500, 503, 504]), secrets, st.data())
@settings(max_examples=300)
def test_no_text_of_google_s_is_passed_on(status: int, secret: str, data: st.DataObject) -> None:
    texts = st.sampled_from([frame.replace("{}", secret) for frame in FRAMES])
    values = st.recursive(
        texts | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
        max_leaves=8,
    )
    fields = st.fixed_dictionaries(
        {"message": texts}, optional={"status": texts, "details": st.lists(values, max_size=3)}
    )
    error = parse_error(status, json.dumps({"error": data.draw(fields)}).encode())
    assert "c4nary" not in repr(vars(error)).lower()


@pytest.mark.parametrize("word", ["STOP", "A", "HARM_CATEGORY_HATE_SPEECH", "A1", "A" * 64])
def test_machine_words(word: str) -> None:
    assert machine_word(word) == word


@pytest.mark.parametrize("value", [None, "", 5, ["STOP"], "Stop", "STOP ", "STOP\n", "1A", "_A", "A" * 65, "A-B", "Å"])
def test_everything_else_is_no_machine_word(value: object) -> None:
    assert machine_word(value) is None
