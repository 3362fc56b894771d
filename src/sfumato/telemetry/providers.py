"""Whether somebody has installed OpenTelemetry's global providers."""

from __future__ import annotations

from opentelemetry import metrics, trace


def traces_are_taken() -> bool:
    """Tell whether there is a global tracer provider but the one that stands in for it."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def metrics_are_taken() -> bool:
    """Tell whether there is a global meter provider but the one that stands in for it."""
    # The API keeps that one's class to itself.
    return type(metrics.get_meter_provider()).__name__ != "_ProxyMeterProvider"
