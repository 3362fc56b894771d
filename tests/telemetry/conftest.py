"""An observer whose spans and metrics stay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sfumato.telemetry.light import LightTracerProvider
from sfumato.telemetry.otel import OtelObserver


@dataclass
class Clock:
    """Seconds that move by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Telemetry:
    """An observer, and what it showed."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    observer: OtelObserver
    clock: Clock

    def spans(self) -> dict[str, ReadableSpan]:
        """Return the finished spans by name; no two may share one."""
        finished = self.exporter.get_finished_spans()
        by_name = {span.name: span for span in finished}
        assert len(by_name) == len(finished)
        return by_name

    def span(self) -> ReadableSpan:
        """Return the only span of an operation."""
        (span,) = [span for span in self.exporter.get_finished_spans() if span.name.startswith("generate_content")]
        return span

    def points(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """Return every instrument's points: labels, and a value or a histogram's count and sum."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        value = point.value if isinstance(point, NumberDataPoint) else (point.count, point.sum)
                        found.setdefault(metric.name, []).append((dict(point.attributes or {}), value))
        return found

    def point(self, name: str) -> tuple[dict[str, Any], Any]:
        """Return the only point of an instrument."""
        (point,) = self.points()[name]
        return point


@pytest.fixture(params=["somebody's provider", "ours"])
def telemetry(request: pytest.FixtureRequest) -> Iterator[Telemetry]:
    """Let somebody else have installed the SDK, or us: what is told is the same."""
    exporter, reader, clock = InMemorySpanExporter(), InMemoryMetricReader(), Clock()
    is_ours = request.param == "ours"
    tracer_provider = LightTracerProvider(Resource({})) if is_ours else TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    observer = OtelObserver(
        tracer_provider=tracer_provider, meter_provider=meter_provider, hash_salt="salt", clock=clock
    )
    yield Telemetry(tracer_provider, meter_provider, exporter, reader, observer, clock)
    tracer_provider.shutdown()
    meter_provider.shutdown()
