"""The one reader of upstream statuses: a non-200 answer of the Gemini API to an error of ours.

Shapes and texts: recorded answers and the SDK's parser, collected 2026-11-21. ``details`` may hold the API key itself
(timesketch PR #3703) and messages may repeat what was sent, so texts are recognized, never passed on: what goes on is
delays and words in capitals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import MappingProxyType
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

_WORD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_SECONDS = re.compile(r"[0-9]{1,9}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,12})?)s")
_MESSAGE_DELAY = re.compile(
    r"Please retry in (?:([0-9]{1,5})h)?(?:([0-9]{1,5})m)?([0-9]{1,9}(?:\.[0-9]{1,12})?)(ms|s)\b"
)
_BILLING = re.compile(r"prepayment credits are depleted|monthly spending cap", re.IGNORECASE)
_PER_DAY = re.compile(r"per_?day", re.IGNORECASE)
# Vertex AI names its quota in the message alone (claude-code #1440).
_PER_MINUTE = re.compile(r"per_?minute", re.IGNORECASE)
_NO_FREE_TIER = re.compile(r"free_tier\w*, limit: 0\b")
_BAD_IMAGE = re.compile(
    r"image is not valid|process input image|Unsupported MIME type|Base64 decoding failed", re.IGNORECASE
)
_TOO_LARGE = re.compile(r"payload size exceeds", re.IGNORECASE)
_LEAST_SECONDS = 1.0
_KEY = re.compile(r"API key (?:not valid|not found|expired)|(?:leaked|invalid) API key", re.IGNORECASE)
_EXPLAINED = (
    (re.compile(r"Unknown name"), "it has a field that this model or API version does not know"),
    (re.compile(r"multiple candidates", re.IGNORECASE), "it asks for several candidates in one call"),
    (re.compile(r"media resolution", re.IGNORECASE), "it sets a media resolution"),
    (re.compile(r"image_?size", re.IGNORECASE), "the model does not make this image size"),
    (re.compile(r"aspect_?ratio", re.IGNORECASE), "the model does not make this aspect ratio"),
    (re.compile(r"safety_?settings|HARM_CATEGORY_", re.IGNORECASE), "a safety category or threshold is not accepted"),
    (re.compile(r"thought_?signature", re.IGNORECASE), "a picture of the model's own lacks its thought signature"),
)
# The reason of errors that are facts about the account: another one may serve the same request.
UNAVAILABLE = "unavailable"
# The reason of a 403 that says nothing of an account: whoever stands between here and Google dislikes the request.
REFUSED_BY_GATEWAY = "refused_by_gateway"
_UNEXPLAINED = "it tells no reason that could be passed on. Check the images, the size and the model"


@dataclass(frozen=True, slots=True)
class _Fault:
    status: str | None
    message: str
    reasons: tuple[str, ...]
    quota_ids: tuple[str, ...]
    delay: float | None
    header_delay: float | None

    @property
    def retry_after(self) -> float | None:
        """Return when Google, else a gateway, wants to be asked again; "at once" is too soon for all who are told."""
        told = self.header_delay if self.delay is None else self.delay
        return told if told is None or told > 0 else _LEAST_SECONDS


def machine_word(value: object) -> str | None:
    """Return *value* if it is one of Google's words in capitals, which cannot hold a key or a prompt; else None."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def parse_error(
    http_status: int, body: bytes | bytearray, headers: Mapping[str, str] = MappingProxyType({})
) -> ImageError:
    """Read a non-200 answer: JSON object, one-element array, or whatever a proxy on the way wrote.

    Args:
        http_status: Its status.
        body: Its body, which may be cut.
        headers: Its headers; the names in lower case, unless the mapping ignores case.

    Returns:
        The error to raise; its message holds no key, no prompt and no ``details``.
    """
    fault = _read(body, _header_delay(headers))
    if http_status == 429:
        return _quota(fault)
    if http_status == 400:
        return _bad_request(fault)
    if http_status == 403 and not (fault.status or fault.reasons or _KEY.search(fault.message)):
        return UpstreamFailureError(
            "A gateway on the way to Gemini refused the request. Tell the operator.",
            reason=REFUSED_BY_GATEWAY,
            retryable=False,
        )
    if http_status in (401, 403):
        return _auth(fault)
    if http_status == 402:
        return QuotaExhaustedError("Google's billing for this account is exhausted.", reason="billing")
    if http_status == 404:
        return ModelNotFoundError(
            "Google does not offer this model to this account or in this version.", param="model", reason=UNAVAILABLE
        )
    if http_status == 413:
        return _too_large()
    if http_status in (408, 504):
        return DeadlineError("Gemini did not finish the picture in time. Send the request again.", reason=fault.status)
    if http_status == 503:
        return ServiceUnavailableError(
            "Gemini is overloaded or down. Send the request again later.",
            reason=fault.status,
            retry_after=fault.retry_after,
        )
    return UpstreamFailureError(
        f"Gemini answered with HTTP {http_status}. Send the request again later.",
        reason=fault.status,
        retryable=http_status >= 500,
    )


def _read(body: bytes | bytearray, header_delay: float | None) -> _Fault:
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        document = None
    if isinstance(document, list) and document:
        document = document[0]
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return _Fault(None, "", (), (), None, header_delay)
    details = [row for row in _list(error.get("details")) if isinstance(row, dict)]
    violations = [v for row in details for v in _list(row.get("violations")) if isinstance(v, dict)]
    message = str(error.get("message") or "")
    return _Fault(
        status=machine_word(error.get("status")),
        message=message,
        reasons=tuple(word for row in details if (word := machine_word(row.get("reason")))),
        quota_ids=tuple(quota for v in violations if isinstance(quota := v.get("quotaId"), str)),
        delay=_delay(details, message),
        header_delay=header_delay,
    )


def _header_delay(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After``, which gateways send and Google does not: seconds, or a date by the sender's own clock."""
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        until, now = (parsedate_to_datetime(date) for date in (text, headers.get("date", "")))
        return (until - now).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        # Neither, or no date of its own to count from.
        return None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _delay(details: list[dict[str, Any]], message: str) -> float | None:
    """Read RetryInfo's protobuf duration (``45.837906927s``), else the message (``Please retry in 1h52m56.4s``)."""
    for row in details:
        match = _DURATION.fullmatch(str(row.get("retryDelay", "")))
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
    if any(_PER_DAY.search(text) for text in fault.quota_ids or (fault.message,)):
        return QuotaExhaustedError(
            "The day's quota for this model is used up.", reason="per_day", retry_after=fault.retry_after
        )
    of_ours = fault.quota_ids or fault.delay is not None or _PER_MINUTE.search(fault.message)
    reason = "per_minute" if of_ours else "shared_capacity"
    return RateLimitedError(
        "Gemini's rate limit was met. Send the request again after the time in 'Retry-After'.",
        reason=reason,
        retry_after=fault.retry_after,
    )


def _bad_request(fault: _Fault) -> ImageError:
    # A bad key is a 400 with ErrorInfo API_KEY_INVALID, not a 401 (recorded).
    if "API_KEY_INVALID" in fault.reasons or _KEY.search(fault.message):
        return _auth(fault)
    if fault.status == "FAILED_PRECONDITION":
        return ConfigurationError(
            "Google does not serve this model to this account or from this location.", reason=UNAVAILABLE
        )
    if _TOO_LARGE.search(fault.message):
        return _too_large()
    if _BAD_IMAGE.search(fault.message):
        return InvalidImageError("Gemini could not read an input image. Send it as PNG, JPEG or WebP.", param="image")
    told = next((words for pattern, words in _EXPLAINED if pattern.search(fault.message)), _UNEXPLAINED)
    return InvalidParameterError(f"Gemini refused the request: {told}.", reason=fault.status)


def _auth(fault: _Fault) -> UpstreamAuthError:
    reason = fault.reasons[0] if fault.reasons else fault.status
    return UpstreamAuthError("Google refused this installation's credentials. Tell the operator.", reason=reason)


def _too_large() -> PayloadTooLargeError:
    return PayloadTooLargeError("The request is larger than Gemini accepts. Send fewer or smaller images.")
