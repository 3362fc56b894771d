"""Google's error answers: one `GoogleError` with code, RPC status, message and details, and a builder per known body.

Texts and shapes were recorded from the Gemini API; sources stand in the project's wire reference, seen 2026-11-21.
"""

from __future__ import annotations

from typing import Any

_TYPE = "type.googleapis.com/google.rpc."
_SERVICE = "generativelanguage.googleapis.com"
_HELP_URL = "https://ai.google.dev/gemini-api/docs/rate-limits"
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GoogleError(Exception):
    """An answer in Google's error shape.

    Args:
        code: The HTTP status.
        message: Google's text.
        status: The RPC status name, by default the one that belongs to *code*.
        details: ``google.rpc`` messages; left out of the body when empty.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: str | None = None,
        details: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or _STATUSES.get(code, "UNKNOWN")
        self.details = details

    def body(self) -> dict[str, Any]:
        """Return the JSON object ``{"error": {...}}``."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = list(self.details)
        return {"error": error}


def invalid_argument(message: str = "Request contains an invalid argument.") -> GoogleError:
    """Build a 400 without details."""
    return GoogleError(400, message)


def bad_request(violations: list[tuple[str, str]]) -> GoogleError:
    """Build a 400 with ``BadRequest.fieldViolations`` from (field path, description)."""
    fields = [{"field": path, "description": text} if path else {"description": text} for path, text in violations]
    detail = {"@type": f"{_TYPE}BadRequest", "fieldViolations": fields}
    return GoogleError(400, "\n".join(text for _, text in violations), details=(detail,))


def payload_too_large(limit_bytes: int) -> GoogleError:
    """Build the 400 of a body over the limit."""
    return GoogleError(400, f"Request payload size exceeds the limit: {limit_bytes} bytes.")


def invalid_key(message: str = "API key not valid. Please pass a valid API key.") -> GoogleError:
    """Build the 400 that Google answers a bad key with; not a 401."""
    info = _error_info("API_KEY_INVALID")
    localized = {"@type": f"{_TYPE}LocalizedMessage", "locale": "en-US", "message": message}
    return GoogleError(400, message, details=(info, localized))


def unauthenticated() -> GoogleError:
    """Build the 401 of a bearer token that is no OAuth token, sent with a key or alone."""
    message = (
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
    )
    return GoogleError(401, message, details=(_error_info("ACCESS_TOKEN_TYPE_UNSUPPORTED"),))


def unregistered() -> GoogleError:
    """Build the 403 of a call without any key."""
    message = (
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API."
    )
    return GoogleError(403, message)


def leaked_key() -> GoogleError:
    """Build the 403 of a key that Google found in public."""
    return GoogleError(403, "Your API key was reported as leaked. Please use another API key.")


def blocked_key() -> GoogleError:
    """Build the 403 of a key that is restricted to other APIs."""
    message = (
        f"Requests to this API {_SERVICE} method google.ai.generativelanguage.v1beta.GenerativeService."
        "GenerateContent are blocked."
    )
    return GoogleError(403, message, details=(_error_info("API_KEY_SERVICE_BLOCKED"),))


def model_not_found(model: str, *, version: str, method: str) -> GoogleError:
    """Build the 404 of a model that does not exist, was shut down, or lacks *method*."""
    message = (
        f"models/{model} is not found for API version {version}, or is not supported for {method}. "
        "Call ListModels to see the list of available models and their supported methods."
    )
    return GoogleError(404, message)


def quota_exceeded(model: str, *, per_day: bool, delay_seconds: float, limit: int | None = None) -> GoogleError:
    """Build the 429 of a used-up quota, with Help, QuotaFailure and RetryInfo.

    Args:
        model: The model the quota is counted for.
        per_day: The day quota instead of the minute quota.
        delay_seconds: What RetryInfo and the message tell the caller to wait.
        limit: The quota's value; 0 is the body of a model without a free tier, by the free tier's metric.
    """
    period = "Day" if per_day else "Minute"
    free = limit == 0
    metric = "generate_content_free_tier_requests" if free else f"generate_requests_per_model_per_{period.lower()}"
    if not per_day and not free:
        metric = "generate_requests_per_model"
    value = limit if limit is not None else 250 if per_day else 20
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        f"error, head over to: {_HELP_URL}. To monitor your current usage, head to: https://ai.dev/rate-limit. \n"
        f"* Quota exceeded for metric: {_SERVICE}/{metric}, limit: {value}, model: {model}\n"
        f"Please retry in {spell_delay(delay_seconds)}."
    )
    quota_id = f"GenerateRequestsPer{period}PerProjectPerModel{'-FreeTier' if free else ''}"
    violation = {
        "quotaMetric": f"{_SERVICE}/{metric}",
        "quotaId": quota_id,
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": str(value),
    }
    link = {"description": "Learn more about Gemini API quotas", "url": _HELP_URL}
    details = (
        {"@type": f"{_TYPE}Help", "links": [link]},
        {"@type": f"{_TYPE}QuotaFailure", "violations": [violation]},
        retry_info(delay_seconds),
    )
    return GoogleError(429, message, details=details)


def billing_exhausted() -> GoogleError:
    """Build the 429 of an account that has run out of money."""
    message = (
        "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage your "
        "project and billing."
    )
    return GoogleError(429, message)


def capacity_exhausted() -> GoogleError:
    """Build the 429 of shared capacity, which has no details."""
    return GoogleError(429, "Resource has been exhausted (e.g. check quota).")


def overloaded(delay_seconds: float | None) -> GoogleError:
    """Build the 503 of an overloaded model, with RetryInfo when *delay_seconds* is given."""
    details = () if delay_seconds is None else (retry_info(delay_seconds),)
    return GoogleError(503, "The model is overloaded. Please try again later.", details=details)


def internal() -> GoogleError:
    """Build the 500 of Google's own failure."""
    message = (
        "An internal error has occurred. Please retry or report in "
        "https://developers.generativeai.google/guide/troubleshooting"
    )
    return GoogleError(500, message)


def deadline_exceeded() -> GoogleError:
    """Build the 504 of a generation that took too long."""
    return GoogleError(504, "Deadline expired before operation could complete.")


def location_unsupported() -> GoogleError:
    """Build the 400 of a caller in a country that Google does not serve."""
    return GoogleError(400, "User location is not supported for the API use.", status="FAILED_PRECONDITION")


def retry_info(delay_seconds: float) -> dict[str, Any]:
    """Build a RetryInfo detail; its delay is a protobuf duration such as ``41s`` or ``45.837906927s``."""
    return {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{_number(delay_seconds)}s"}


def spell_delay(seconds: float) -> str:
    """Spell a delay as Google's messages do: ``856.559356ms``, ``41s``, ``1h52m56.4s``."""
    if seconds < 1:
        return f"{_number(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{_number(rest)}s"


def _number(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _error_info(reason: str) -> dict[str, Any]:
    return {
        "@type": f"{_TYPE}ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": _SERVICE},
    }
