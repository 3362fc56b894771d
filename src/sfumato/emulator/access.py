"""Who may call: the key of a request, checked as Google does."""

from __future__ import annotations

from sfumato.emulator.statuses import invalid_key, unauthenticated, unregistered


def check_access(*, key: str | None, authorization: str | None, accepted: tuple[str, ...]) -> str:
    """Return the key of a call.

    Args:
        key: From ``x-goog-api-key`` or ``?key=``.
        authorization: The ``Authorization`` header.
        accepted: The keys that are good; empty means every key that does not contain ``invalid``.

    Raises:
        GoogleError: 401 for a bearer token, alone or beside a key (claude-code-router #93); 403 without a key; 400
            ``API_KEY_INVALID`` for a bad one.
    """
    if authorization is not None:
        raise unauthenticated()
    if not key:
        raise unregistered()
    if key not in accepted if accepted else "invalid" in key:
        raise invalid_key()
    return key
