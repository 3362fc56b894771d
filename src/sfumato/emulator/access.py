"""Who may call: the key or the token of a request, checked as Google does."""

from __future__ import annotations

from starlette.requests import Request

from sfumato.emulator.addresses import Address
from sfumato.emulator.statuses import invalid_key, unauthenticated, unregistered
from sfumato.emulator.vertex_statuses import key_instead_of_token, token_missing


def read_secret(request: Request, address: Address) -> str:
    """Return what the caller is known by: the API key, on Vertex AI the bearer token; empty when there is none."""
    if address.backend == "vertex":
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    return request.headers.get("x-goog-api-key") or request.query_params.get("key") or ""


def check_access(request: Request, address: Address, accepted: tuple[str, ...]) -> None:
    """Check who calls.

    Args:
        request: The call.
        address: Where it went.
        accepted: The keys and tokens that are good; empty means all that do not contain ``invalid``.

    Raises:
        GoogleError: On the Gemini API 401 for a bearer token, alone or beside a key (claude-code-router #93), 403
            without a key, 400 ``API_KEY_INVALID`` for a bad one. On Vertex AI 401.
    """
    secret = read_secret(request, address)
    bad = secret not in accepted if accepted else "invalid" in secret
    if address.backend == "gemini":
        if "authorization" in request.headers:
            raise unauthenticated()
        if not secret:
            raise unregistered()
        if bad:
            raise invalid_key()
        return
    if "x-goog-api-key" in request.headers or "key" in request.query_params:
        raise key_instead_of_token(address)
    if "authorization" not in request.headers:
        raise token_missing(address)
    if not secret or bad:
        raise unauthenticated()
