"""The journal: what was called and how it ended, for tests and demos. Keys and pictures do not stand in it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sfumato.emulator.decoder import decode_base64
from sfumato.emulator.inputs import measure

_INLINE = ("inlineData", "inline_data")
_SECRET_HEADERS = ("x-goog-api-key", "authorization")
_MIN_HINTED_CHARS = 8


@dataclass(slots=True, kw_only=True)
class Call:
    """One call to the API.

    Attributes:
        time: Unix seconds of its arrival.
        backend: ``gemini`` or ``vertex``; with the latter *project* and *location*.
        key_hint: The last four characters of the key or token; empty for none or a very short one.
        status: What it was answered with; None while it runs, 499 when the client left first.
        body: The request's JSON, each inline picture replaced by its bytes, sha256, width and height.
        fault: The fault texts in force, joined by commas.
        cost_usd: What Google would bill at the standard rate.
        headers: The request's, keys masked.
        in_flight: How many calls ran when it arrived, itself included.
    """

    time: float
    method: str
    path: str
    model: str | None = None
    backend: str = "gemini"
    project: str | None = None
    location: str | None = None
    key_hint: str = ""
    status: int | None = None
    body: Any = None
    fault: str | None = None
    cost_usd: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    in_flight: int = 1


class Journal:
    """Keep the latest calls, oldest first."""

    def __init__(self, max_calls: int) -> None:
        self._calls: deque[Call] = deque(maxlen=max_calls)

    @property
    def calls(self) -> tuple[Call, ...]:
        """Return the calls, oldest first."""
        return tuple(self._calls)

    def open(self, call: Call) -> Call:
        """Enter *call* and return it; it stays the same object while the call runs."""
        running = sum(other.status is None for other in self._calls)
        call.in_flight = running + 1
        self._calls.append(call)
        return call

    def clear(self) -> None:
        """Forget every call."""
        self._calls.clear()

    def entries(self) -> list[dict[str, Any]]:
        """Return the calls as JSON objects."""
        return [asdict(call) for call in self._calls]


def hint_key(key: str) -> str:
    """Return a key's last four characters, nothing when that would tell half of it."""
    return key[-4:] if len(key) >= _MIN_HINTED_CHARS else ""


def mask_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return *headers* with keys and tokens masked."""
    return {name: "***" if name in _SECRET_HEADERS else value for name, value in headers.items()}


def redact(body: Any) -> Any:
    """Return a copy of request JSON with each inline picture replaced by what identifies it."""
    if isinstance(body, list):
        return [redact(item) for item in body]
    if not isinstance(body, dict):
        return body
    return {name: _redact_blob(item) if name in _INLINE else redact(item) for name, item in body.items()}


def _redact_blob(blob: Any) -> Any:
    if not isinstance(blob, dict) or not isinstance(blob.get("data"), str):
        return redact(blob)
    data = decode_base64(blob["data"])
    if data is None:
        return {**blob, "data": {"undecodable": len(blob["data"])}}
    width, height = measure(data) or (None, None)
    told = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "width": width, "height": height}
    return {**blob, "data": told}
