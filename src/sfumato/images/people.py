"""Vertex AI's words on people in pictures. Sources: google-genai 3.4.0 and Vertex's schema, seen 2026-11-21."""

from __future__ import annotations

from collections.abc import Mapping

from sfumato.errors import InvalidParameterError
from sfumato.images.safety import Backend

PEOPLE: Mapping[str, tuple[str, ...]] = {
    "person_generation": ("ALLOW_ALL", "ALLOW_ADULT", "ALLOW_NONE"),
    "prominent_people": ("ALLOW_PROMINENT_PEOPLE", "BLOCK_PROMINENT_PEOPLE"),
}


def parse_people(value: str | None, *, param: str, backend: Backend) -> str | None:
    """Read one of the parameters in `PEOPLE`, in any case; None stays None.

    Raises:
        InvalidParameterError: It is no word of Vertex AI's, or the request could reach the Gemini API, which has none.
    """
    if value is None:
        return None
    if backend != "vertex":
        msg = f"'{param}' is available with a Vertex AI backend only; leave it out."
        raise InvalidParameterError(msg, param=param)
    word = value.strip().upper()
    if word in PEOPLE[param]:
        return word
    msg = f"Invalid value for '{param}': expected one of {', '.join(PEOPLE[param])}."
    raise InvalidParameterError(msg, param=param)
