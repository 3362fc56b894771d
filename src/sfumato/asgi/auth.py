"""Who may call: client keys, by `Authorization: Bearer`, `x-api-key` or `x-goog-api-key`."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable

from starlette.datastructures import Headers
from starlette.requests import Request

from sfumato.errors import ConfigurationError, ImageError, UnauthorizedError
from sfumato.setting_types import Labelled
from sfumato.settings import Settings

_log = logging.getLogger("sfumato")

Authorize = Callable[[Request], Awaitable[str | None]]
"""Let a request in and return its tenant's label, or raise: `UnauthorizedError`, or any other exception to refuse."""


class ClientKeys:
    """The keys of `GEMINI_IMAGE_CLIENT_KEYS`; calling it with a request is an `Authorize`.

    Args:
        keys: Labels and keys; the label is the tenant.
    """

    def __init__(self, keys: Iterable[Labelled]) -> None:
        self._labels = [(_digest(secret.get_secret_value()), label) for label, secret in keys]

    async def __call__(self, request: Request) -> str | None:
        """Return the label of the key that *request* holds.

        Raises:
            UnauthorizedError: It holds none, or an unknown one.
        """
        presented = presented_key(request.headers)
        if not presented:
            raise UnauthorizedError("No API key was sent. Send one as 'Authorization: Bearer'.")
        digest = _digest(presented)
        found: str | None = None
        for known, label in self._labels:
            # Every key is compared, in constant time: the answer's delay tells nothing.
            if hmac.compare_digest(known, digest):
                found = label
        if found is None:
            raise UnauthorizedError("The API key is not known here. Check it, or ask the operator for one.")
        return found


async def admit(authorize: Authorize, request: Request) -> str | None:
    """Return the tenant that *request* is let in for.

    Raises:
        ImageError: It is not let in; whatever else *authorize* raises is a refusal too, never an entry.
    """
    try:
        return await authorize(request)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  # a host's own check may raise anything
        _log.warning("authorize raised %s: the request is refused", type(error).__name__)
        raise UnauthorizedError("This request was not let in. Check the API key.") from None


async def anyone(request: Request) -> str | None:  # noqa: ARG001  # an Authorize
    """Let every request in, without a tenant."""
    return None


def presented_key(headers: Headers) -> str:
    """Return the key that a request presents, empty when it presents none."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return headers.get("x-api-key") or headers.get("x-goog-api-key") or ""


def choose_authorize(settings: Settings, *, authorize: Authorize | None, anonymous: bool) -> Authorize:
    """Return who decides: *authorize*, else the client keys, else anyone when *anonymous* says so.

    Raises:
        ConfigurationError: Nobody would decide. A middleware runs outside the routes' own dependencies, so nothing
            else guards it.
    """
    if authorize is not None:
        return authorize
    if settings.client_keys:
        return ClientKeys(settings.client_keys)
    if anonymous:
        return anyone
    raise ConfigurationError(
        "Nothing decides who may call: set GEMINI_IMAGE_CLIENT_KEYS, pass authorize=, or pass anonymous=True."
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
