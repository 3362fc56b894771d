"""Liveness and readiness: open to everyone, telling nothing secret."""

from __future__ import annotations

from typing import Any

from sfumato.runtime import Runtime


def health() -> tuple[int, dict[str, Any]]:
    """Answer that the process runs."""
    return 200, {"status": "ok"}


def ready(runtime: Runtime) -> tuple[int, dict[str, Any]]:
    """Answer whether new requests are taken: 503 while no account is configured, and once the server is told to end."""
    if runtime.draining:
        return 503, {"status": "draining"}
    if runtime.accounts:
        return 200, {"status": "ready"}
    return 503, {"status": "unavailable", "reason": "no Gemini API key is configured"}
