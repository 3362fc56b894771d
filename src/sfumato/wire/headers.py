"""Answer headers: what was served, from where, at what cost."""

from __future__ import annotations

import math
import re

from sfumato.errors import ImageError
from sfumato.images.request import CacheControl, CacheStatus, ImageResult, Timings

# RFC 9211 names why a request was forwarded; "off" has no such word, because no cache was there to say it.
_FORWARDED = {
    CacheStatus.MISS: "fwd=miss",
    CacheStatus.PARTIAL: "fwd=partial",
    CacheStatus.BYPASS: "fwd=bypass",
}
_DIRECTIVE = re.compile(r"^([a-z-]+)(?:=\"?(\d{1,10})\"?)?$")
# Ids of zeros and the version ff are invalid; later versions may append fields (W3C Trace Context, 3.2).
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


def result_headers(result: ImageResult, *, request_id: str) -> dict[str, str]:
    """Return the headers of an answer with pictures."""
    request = result.request
    headers = {
        "x-request-id": request_id,
        "x-gemini-image-model": request.resolved_variant.name,
        "x-gemini-image-cache": result.cache_status.value,
        "x-gemini-image-safety": request.safety.level,
        "x-gemini-image-cost": f"{result.cost_usd:.6f}",
        "x-gemini-image-retries": str(result.retries),
        "server-timing": server_timing(result.timings),
    }
    if status := _cache_status(result):
        headers["cache-status"] = status
    if result.age_seconds is not None:
        headers["age"] = str(int(result.age_seconds))
    if result.failures:
        headers["x-gemini-image-partial"] = f"{len(result.images)}/{request.n}"
    return headers


def error_headers(error: ImageError, *, request_id: str) -> dict[str, str]:
    """Return the headers of an error.

    OpenAI clients repeat 408, 409, 429 and 5xx twice and routers do so again, so ``x-should-retry: false`` goes with
    every error whose repetition cannot help or was already tried here.
    """
    headers = {"x-request-id": request_id, "x-gemini-image-retries": str(error.attempts - 1)}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(0, math.ceil(error.retry_after)))
    if not error.worth_repeating:
        headers["x-should-retry"] = "false"
    return headers


def server_timing(timings: Timings) -> str:
    """Write timings as a ``Server-Timing`` header, in milliseconds."""
    rows = (
        ("queue", timings.queue),
        ("cache", timings.cache),
        ("upstream", timings.upstream),
        ("total", timings.total),
    )
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in rows)


def parse_cache_control(header: str | None) -> CacheControl:
    """Read a request's ``Cache-Control``: no-cache, no-store and max-age; other directives mean nothing here."""
    directives: dict[str, str | None] = {}
    for part in (header or "").lower().split(","):
        if match := _DIRECTIVE.match(part.strip()):
            directives[match[1]] = match[2]
    max_age = directives.get("max-age")
    return CacheControl(
        no_cache="no-cache" in directives,
        no_store="no-store" in directives,
        max_age_seconds=float(max_age) if max_age is not None else None,
    )


def stricter(first: CacheControl, second: CacheControl) -> CacheControl:
    """Combine what the body and the header wish of the cache."""
    ages = [age for age in (first.max_age_seconds, second.max_age_seconds) if age is not None]
    return CacheControl(
        no_cache=first.no_cache or second.no_cache,
        no_store=first.no_store or second.no_store,
        ttl_seconds=first.ttl_seconds if first.ttl_seconds is not None else second.ttl_seconds,
        max_age_seconds=min(ages, default=None),
    )


def parse_trace_id(traceparent: str | None) -> str | None:
    """Return the trace id of a W3C ``traceparent``, None when it is absent or malformed."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    return match[1] if match else None


def _cache_status(result: ImageResult) -> str | None:
    if result.cache_status is CacheStatus.OFF:
        return None
    if result.cache_status is CacheStatus.HIT:
        return "sfumato; hit"
    stored = "" if result.cache_ttl_seconds is None else "; stored"
    return f"sfumato; {_FORWARDED[result.cache_status]}{stored}"
