"""The one reader of upstream statuses: a non-200 answer of the Gemini API to an error of ours.

Shapes and texts: recorded answers and the SDK's parser, collected 2026-11-21. ``details`` may hold the API key itself
(timesketch PR #3703), so nothing of it is passed on but reasons and delays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

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

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)s$")
_MESSAGE_DELAY = re.compile(r"Please retry in (?:(\d+)h)?(?:(\d+)m)?([\d.]+)(ms|s)")
_BILLING = re.compile(r"prepayment credits are depleted|monthly spending cap", re.IGNORECASE)
_NO_FREE_TIER = re.compile(r"free_tier\w*, limit: 0\b")
_BAD_IMAGE = re.compile(
    r"image is not valid|process input image|Unsupported MIME type|Base64 decoding failed", re.IGNORECASE
)
_TOO_LARGE = re.compile(r"payload size exceeds", re.IGNORECASE)
_KEY = re.compile(r"API[ _]key", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"]*\"?|'[^']*'?|\S{40,}")
_MAX_MESSAGE_CHARS = 200


@dataclass(frozen=True, slots=True)
class _Fault:
    status: str
    message: str
    reasons: tuple[str, ...]
    quota_ids: tuple[str, ...]
    delay: float | None


def parse_error(http_status: int, body: bytes | bytearray) -> ImageError:
    """Read a non-200 answer: JSON object, one-element array, or whatever a proxy on the way wrote.

    Returns:
        The error to raise; its message holds no key, no prompt and no ``details``.
    """
    fault = _read(body)
    if http_status == 429:
        return _quota(fault)
    if http_status == 400:
        return _bad_request(fault)
    if http_status in (401, 403):
        return _auth(fault)
    if http_status == 402:
        return QuotaExhaustedError("Google's billing for this account is exhausted.", reason="billing")
    if http_status == 404:
        return ModelNotFoundError("Google does not offer this model to this account or in this version.", param="model")
    if http_status == 413:
        return _too_large()
    if http_status in (408, 504):
        return DeadlineError("Gemini did not finish the picture in time. Send the request again.", reason=fault.status)
    if http_status == 503:
        return ServiceUnavailableError(
            "Gemini is overloaded or down. Send the request again later.", reason=fault.status, retry_after=fault.delay
        )
    return UpstreamFailureError(
        f"Gemini answered with HTTP {http_status}. Send the request again later.",
        reason=fault.status or None,
        retryable=http_status >= 500,
    )


def _read(body: bytes | bytearray) -> _Fault:
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        document = None
    if isinstance(document, list) and document:
        document = document[0]
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return _Fault("", "", (), (), None)
    details = [row for row in _list(error.get("details")) if isinstance(row, dict)]
    violations = [v for row in details for v in _list(row.get("violations")) if isinstance(v, dict)]
    message = str(error.get("message") or "")
    return _Fault(
        status=str(error.get("status") or ""),
        message=message,
        reasons=tuple(str(row["reason"]) for row in details if "reason" in row),
        quota_ids=tuple(str(v.get("quotaId", "")) for v in violations),
        delay=_delay(details, message),
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _delay(details: list[dict[str, Any]], message: str) -> float | None:
    """Read RetryInfo's protobuf duration (``45.837906927s``), else the message (``Please retry in 1h52m56.4s``)."""
    for row in details:
        match = _DURATION.match(str(row.get("retryDelay", "")))
        if match:
            return float(match[1])
    match = _MESSAGE_DELAY.search(message)
    if not match:
        return None
    seconds = float(match[3]) / (1000 if match[4] == "ms" else 1)
    return int(match[1] or 0) * 3600 + int(match[2] or 0) * 60 + seconds


def _quota(fault: _Fault) -> ImageError:
    """Tell a 429's class: the quota id names it; RetryInfo is trusted for timing only (OmniRoute #7940)."""
    if _BILLING.search(fault.message):
        return QuotaExhaustedError("Google's billing for this account is exhausted.", reason="billing")
    if _NO_FREE_TIER.search(fault.message):
        return QuotaExhaustedError("This model has no free tier and the account has no billing.", reason="billing")
    if any("PerDay" in quota for quota in fault.quota_ids):
        return QuotaExhaustedError(
            "The day's quota for this model is used up.", reason="per_day", retry_after=fault.delay
        )
    reason = "per_minute" if fault.quota_ids or fault.delay is not None else "shared_capacity"
    return RateLimitedError(
        "Gemini's rate limit was met. Send the request again after the time in 'Retry-After'.",
        reason=reason,
        retry_after=fault.delay,
    )


def _bad_request(fault: _Fault) -> ImageError:
    # A bad key is a 400 with ErrorInfo API_KEY_INVALID, not a 401 (recorded).
    if "API_KEY_INVALID" in fault.reasons or _KEY.search(fault.message):
        return _auth(fault)
    if fault.status == "FAILED_PRECONDITION":
        return ConfigurationError("Google does not serve this model to this account or from this location.")
    if _TOO_LARGE.search(fault.message):
        return _too_large()
    if _BAD_IMAGE.search(fault.message):
        return InvalidImageError("Gemini could not read an input image. Send it as PNG, JPEG or WebP.", param="image")
    # Quoted and long words may repeat the prompt, base64 or a key.
    told = _QUOTED.sub("…", fault.message.splitlines()[0] if fault.message else "")[:_MAX_MESSAGE_CHARS]
    return InvalidParameterError(f"Gemini refused the request: {told or 'no reason given.'}", reason=fault.status)


def _auth(fault: _Fault) -> UpstreamAuthError:
    reason = fault.reasons[0] if fault.reasons else fault.status or None
    return UpstreamAuthError("Google refused this installation's credentials. Tell the operator.", reason=reason)


def _too_large() -> PayloadTooLargeError:
    return PayloadTooLargeError("The request is larger than Gemini accepts. Send fewer or smaller images.")
