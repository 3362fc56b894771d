"""What operators see: the request log, traces and metrics.

`configure` and `shutdown` wire OpenTelemetry's SDK for a process of one's own, as the ``OTEL_*`` variables ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.telemetry.sdk import configure, flush, shutdown

__all__ = ["configure", "flush", "shutdown"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The observer's protocol is imported everywhere; OpenTelemetry is not.
    from sfumato.telemetry import sdk  # noqa: PLC0415

    return getattr(sdk, name)
