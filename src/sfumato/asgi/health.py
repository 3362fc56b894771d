"""Liveness and readiness: open to everyone, telling nothing secret."""

from __future__ import annotations

from typing import Any

from sfumato.runtime import Runtime


def health() -> tuple[int, dict[str, Any]]:
    """Answer that the process runs."""
    return 200, {"status": "ok"}


def ready(runtime: Runtime) -> tuple[int, dict[str, Any]]:
    """Answer whether pictures can be made: 503 while no account is configured."""
    if runtime.settings.accounts:
        return 200, {"status": "ready"}
    return 503, {"status": "unavailable", "reason": "no Gemini API key is configured"}
