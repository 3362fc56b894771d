"""Our errors as LiteLLM's own: one table, so that its retries, fallbacks and cooldowns do what an operator expects.

Facts of LiteLLM 1.106.2, seen 2026-11-21:

- An exception that is not LiteLLM's own reaches the client of a generation as a 500 with traceback and paths.
- 401, 402, 404 and 408 cool a deployment down, also the only one of its group: one wildcard deployment holds every
  variant, so a mistyped suffix must not be a 404. 413 and other 4xx never do. 5xx do by failure rate only.
- The router repeats 408, 409, 429 and 5xx; ``num_retries`` on the exception is its budget unless the request or the
  deployment names one, and a ``retry-after`` of at most 60 s on ``response.headers`` is waited for.
- ``status_code``, ``type``, ``param`` and ``message`` of an instance reach the client, ``code`` never does. Edits also
  keep ``headers`` and ``provider_specific_fields``; generations drop both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httpx
from litellm import exceptions

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
)
from sfumato.wire.headers import error_headers
from sfumato.wire.openai_images import render_error

PROVIDER = "gemini-image"

LITELLM_CLASSES: Mapping[type[ImageError], Any] = MappingProxyType(
    {
        MissingPromptError: exceptions.BadRequestError,
        InvalidParameterError: exceptions.BadRequestError,
        InvalidImageError: exceptions.BadRequestError,
        PayloadTooLargeError: exceptions.BadRequestError,
        ModelNotFoundError: exceptions.BadRequestError,
        UnauthorizedError: exceptions.AuthenticationError,
        # content_policy_fallbacks look for this class.
        SafetyBlockedError: exceptions.ContentPolicyViolationError,
        RateLimitedError: exceptions.RateLimitError,
        QuotaExhaustedError: exceptions.RateLimitError,
        NoImageError: exceptions.BadGatewayError,
        UpstreamFailureError: exceptions.BadGatewayError,
        ServiceUnavailableError: exceptions.ServiceUnavailableError,
        NetworkError: exceptions.BadGatewayError,
        DeadlineError: exceptions.Timeout,
        # Not AuthenticationError: the client's key was fine, and a 401 cools the deployment.
        UpstreamAuthError: exceptions.InternalServerError,
        OverloadedError: exceptions.ServiceUnavailableError,
        ConfigurationError: exceptions.InternalServerError,
        InternalError: exceptions.InternalServerError,
    }
)
# The router would sleep through a longer Retry-After, up to 60 s at a time, with the client waiting: better that the
# client learns it at once.
_PATIENCE_SECONDS = 5.0
_STATUSES: Mapping[type[ImageError], int] = MappingProxyType({ModelNotFoundError: 400})


def translate_error(error: ImageError, *, model: str, request_id: str, sole_deployment: bool = True) -> Exception:
    """Return *error* as the LiteLLM exception to raise, its message led by the ``IMG_`` code.

    Args:
        error: What went wrong.
        model: The deployment's model, for LiteLLM's logs.
        request_id: LiteLLM's call id, which the client is told.
        sole_deployment: Whether the router has no other deployment to try. If so, it is told not to repeat what
            cannot help, was already repeated here, or has to wait long.
    """
    kind = LITELLM_CLASSES[type(error)]
    status = seen_status(error)
    headers = error_headers(error, request_id=request_id)
    body = render_error(error, request_id=request_id)["error"]
    exception: Exception = kind(message=error.message, llm_provider=PROVIDER, model=model)
    # LiteLLM's constructors put their class name in front, and fix the status by class.
    told: dict[str, object] = {
        "message": f"{error.code}: {error.message}{_waiting(error)}",
        "status_code": status,
        "type": error.openai_type,
        "param": error.param,
        "code": error.openai_code,
        "body": body,
        "headers": headers,
        "provider_specific_fields": {"image_error": body["image_error"]},
        "response": httpx.Response(status, headers=headers, request=httpx.Request("POST", "https://sfumato.invalid")),
    }
    patient = error.retry_after is None or error.retry_after <= _PATIENCE_SECONDS
    if sole_deployment and not (error.worth_repeating and patient):
        told["num_retries"] = 0
    for name, value in told.items():
        setattr(exception, name, value)
    return exception


def seen_status(error: ImageError) -> int:
    """Return the HTTP status that LiteLLM is told."""
    return _STATUSES.get(type(error), error.status)


def _waiting(error: ImageError) -> str:
    # Generations lose every header of an error (LiteLLM 1.106.2), so the message says what Retry-After would.
    return "" if error.retry_after is None else f" Retry after {max(0, math.ceil(error.retry_after))} seconds."
