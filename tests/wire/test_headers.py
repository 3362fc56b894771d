from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import (
    ImageError,
    InvalidParameterError,
    NoImageError,
    OverloadedError,
    QuotaExhaustedError,
    RateLimitedError,
    leaves,
)
from sfumato.images.models import FAMILIES
from sfumato.images.request import (
    CacheControl,
    CacheStatus,
    GeneratedImage,
    ImageRequest,
    ImageResult,
    Operation,
    Picture,
    SlotFailure,
    Timings,
    Usage,
)
from sfumato.images.safety import Safety, Threshold
from sfumato.images.variants import Variant
from sfumato.wire.headers import (
    error_headers,
    parse_cache_control,
    parse_trace_id,
    result_headers,
    server_timing,
    stricter,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
REQUEST = ImageRequest(
    operation=Operation.GENERATION,
    variant=Variant(FAMILIES[0]),
    prompt="p",
    effective_prompt="p",
    safety=Safety(Threshold.BLOCK_ONLY_HIGH),
    n=3,
    aspect_ratio="16:9",
    tier="4K",
)


def image(slot: int, age: float | None = None) -> GeneratedImage:
    return GeneratedImage(
        slot=slot,
        picture=Picture(raw=b"", mime_type="image/png", width=1, height=1),
        usage=Usage(),
        price_usd=0.1384721,
        created=0.0,
        age_seconds=age,
    )


RESULT = ImageResult(
    request=REQUEST,
    images=(image(0), image(1), image(2)),
    cache_status=CacheStatus.MISS,
    retries=2,
    timings=Timings(queue=0.0001, cache=0.0021, upstream=12.3456, total=12.5),
)


def test_an_answer_s_headers() -> None:
    assert result_headers(RESULT, request_id="req_1") == {
        "x-request-id": "req_1",
        "x-gemini-image-model": "gemini-3-pro-image-4k-16x9",
        "x-gemini-image-cache": "miss",
        "x-gemini-image-safety": "LOW",
        "x-gemini-image-cost": "0.415416",
        "x-gemini-image-retries": "2",
        "server-timing": "queue;dur=0.1, cache;dur=2.1, upstream;dur=12345.6, total;dur=12500.0",
        "cache-status": "sfumato; fwd=miss",
    }


@pytest.mark.parametrize(
    ("status", "stored", "header"),
    [
        (CacheStatus.OFF, None, None),
        (CacheStatus.HIT, None, "sfumato; hit"),
        (CacheStatus.MISS, 60.0, "sfumato; fwd=miss; stored"),
        (CacheStatus.PARTIAL, None, "sfumato; fwd=partial"),
        (CacheStatus.PARTIAL, 60.0, "sfumato; fwd=partial; stored"),
        (CacheStatus.BYPASS, 60.0, "sfumato; fwd=bypass; stored"),
        (CacheStatus.BYPASS, None, "sfumato; fwd=bypass"),
    ],
)
def test_cache_status_is_rfc_9211_s(status: CacheStatus, stored: float | None, header: str | None) -> None:
    result = dataclasses.replace(RESULT, cache_status=status, cache_ttl_seconds=stored)
    headers = result_headers(result, request_id="r")
    assert headers.get("cache-status") == header
    assert headers["x-gemini-image-cache"] == status.value


def test_every_cache_status_has_its_header() -> None:
    for status in CacheStatus:
        headers = result_headers(dataclasses.replace(RESULT, cache_status=status), request_id="r")
        assert ("cache-status" in headers) is (status is not CacheStatus.OFF)


def test_a_hit_has_an_age_and_costs_nothing() -> None:
    result = dataclasses.replace(RESULT, images=(image(0, 0.4), image(1, 61.9)), cache_status=CacheStatus.HIT)
    headers = result_headers(result, request_id="r")
    assert (headers["age"], headers["x-gemini-image-cost"]) == ("61", "0.000000")
    assert "age" not in result_headers(RESULT, request_id="r")


def test_a_partial_answer_says_how_many_came() -> None:
    result = dataclasses.replace(RESULT, images=(image(1),), failures=(SlotFailure(0, NoImageError("m")),))
    assert result_headers(result, request_id="r")["x-gemini-image-partial"] == "1/3"
    assert "x-gemini-image-partial" not in result_headers(RESULT, request_id="r")


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "0"), (0.2, "1"), (41.0, "41"), (45.8, "46"), (-3.0, "0")])
def test_retry_after_is_rounded_up(seconds: float, header: str) -> None:
    assert error_headers(RateLimitedError("m", retry_after=seconds), request_id="r")["retry-after"] == header


def test_an_error_without_a_time_has_no_retry_after() -> None:
    assert error_headers(InvalidParameterError("m"), request_id="r") == {
        "x-request-id": "r",
        "x-gemini-image-retries": "0",
        "x-should-retry": "false",
    }
    assert error_headers(OverloadedError("m"), request_id="r") == {
        "x-request-id": "r",
        "x-gemini-image-retries": "0",
        "retry-after": "2",
    }
    spent = error_headers(QuotaExhaustedError("m", retry_after=6776.4), request_id="r")
    assert spent == {
        "x-request-id": "r",
        "x-gemini-image-retries": "0",
        "retry-after": "6777",
        "x-should-retry": "false",
    }


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.code)
@pytest.mark.parametrize("attempts", [1, 2])
def test_clients_are_told_not_to_repeat_what_cannot_help(leaf: type[ImageError], attempts: int) -> None:
    error = leaf("m")
    error.attempts = attempts
    told = error_headers(error, request_id="r").get("x-should-retry")
    waited_for = attempts == 1 or error.code == "IMG_RATE_LIMITED"
    assert told == (None if error.retryable and waited_for else "false")


def test_server_timing_is_in_milliseconds() -> None:
    assert server_timing(Timings()) == "queue;dur=0.0, cache;dur=0.0, upstream;dur=0.0, total;dur=0.0"


@pytest.mark.parametrize(
    ("header", "control"),
    [
        (None, CacheControl()),
        ("", CacheControl()),
        ("no-cache", CacheControl(no_cache=True)),
        ("No-Store , max-age=60", CacheControl(no_store=True, max_age_seconds=60.0)),
        ("max-age=0", CacheControl(max_age_seconds=0.0)),
        ('max-age="5"', CacheControl(max_age_seconds=5.0)),
        ("max-age", CacheControl()),
        ("max-age=-1", CacheControl()),
        ("max-age=x, no-cache", CacheControl(no_cache=True)),
        ("max-age=99999999999", CacheControl()),
        ("s-maxage=5, private, only-if-cached", CacheControl()),
        ("no-cache=1;no-store", CacheControl()),
    ],
)
def test_cache_control(header: str | None, control: CacheControl) -> None:
    assert parse_cache_control(header) == control


@given(st.text(max_size=40))
@settings(max_examples=200)
def test_any_cache_control_is_read(header: str) -> None:
    control = parse_cache_control(header)
    assert control.max_age_seconds is None or math.isfinite(control.max_age_seconds)
    assert control.ttl_seconds is None


def test_body_and_header_together_are_the_stricter_of_both() -> None:
    body = CacheControl(no_cache=True, ttl_seconds=0.0, max_age_seconds=9.0)
    header = CacheControl(no_store=True, ttl_seconds=7.0, max_age_seconds=5.0)
    assert stricter(body, header) == CacheControl(no_cache=True, no_store=True, ttl_seconds=0.0, max_age_seconds=5.0)
    assert stricter(CacheControl(), header) == header
    assert stricter(body, CacheControl()) == body


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"00-{TRACE}-{SPAN}-01", TRACE),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", TRACE),
        (None, None),
        ("", None),
        (TRACE, None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01x", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f" 00-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
    ],
)
def test_trace_ids(header: str | None, trace: str | None) -> None:
    assert parse_trace_id(header) == trace
