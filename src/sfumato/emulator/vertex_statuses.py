"""Vertex AI's error answers, where they differ from the Gemini API's. Texts: seen in public threads, 2026-11-21."""

from __future__ import annotations

from typing import Any

from sfumato.emulator.addresses import Address
from sfumato.emulator.statuses import GoogleError

_TYPE = "type.googleapis.com/google.rpc."
_SERVICE = "aiplatform.googleapis.com"
_DOCS = "https://cloud.google.com/vertex-ai"


def key_instead_of_token(address: Address) -> GoogleError:
    """Build the 401 of an API key on a route that wants a token (a2a-samples #43)."""
    message = (
        "API keys are not supported by this API. Expected OAuth2 access token or other authentication credentials that "
        "assert a principal. See https://cloud.google.com/docs/authentication"
    )
    return GoogleError(401, message, details=(_missing(address),))


def token_missing(address: Address) -> GoogleError:
    """Build the 401 of a call without anything."""
    message = (
        "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other "
        "valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
    )
    return GoogleError(401, message, details=(_missing(address),))


def permission_denied(address: Address) -> GoogleError:
    """Build the 403 of a principal without the role Vertex AI User."""
    permission, resource = "aiplatform.endpoints.predict", f"//{_SERVICE}/{address.resource}"
    message = f"Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
    metadata = {"permission": permission, "resource": address.resource}
    return GoogleError(403, message, details=(_info("IAM_PERMISSION_DENIED", _SERVICE, metadata),))


def publisher_model_not_found(address: Address) -> GoogleError:
    """Build the 404 of a model that does not exist, was shut down, or is not in this location."""
    message = (
        f"Publisher Model `{address.resource}` was not found or your project does not have access to it. "
        "Please ensure you are using a valid model version. For more information, see: "
        f"{_DOCS}/generative-ai/docs/learn/model-versions"
    )
    return GoogleError(404, message)


def quota_exceeded(address: Address) -> GoogleError:
    """Build the 429 of the project's own quota: no details, no delay."""
    metric = f"{_SERVICE}/generate_content_requests_per_minute_per_project_per_base_model"
    message = (
        f"Quota exceeded for {metric} with base model: {address.model}. Please submit a quota increase request. "
        f"{_DOCS}/docs/generative-ai/quotas-genai."
    )
    return GoogleError(429, message)


def capacity_exhausted() -> GoogleError:
    """Build the 429 of shared capacity, the usual one on Vertex AI."""
    message = (
        "Resource exhausted. Please try again later. Please refer to "
        f"{_DOCS}/generative-ai/docs/error-code-429 for more details."
    )
    return GoogleError(429, message)


def _missing(address: Address) -> dict[str, Any]:
    method = f"google.cloud.aiplatform.{address.version}.PredictionService.GenerateContent"
    return _info("CREDENTIALS_MISSING", "googleapis.com", {"method": method, "service": _SERVICE})


def _info(reason: str, domain: str, metadata: dict[str, str]) -> dict[str, Any]:
    return {"@type": f"{_TYPE}ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata}
