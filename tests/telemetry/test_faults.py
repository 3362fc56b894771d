"""Whatever telemetry does, the request goes on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import NoOpTracer, NoOpTracerProvider

from sfumato.errors import NoImageError
from sfumato.telemetry.observer import Call, Charge, OperationRecord, Step
from sfumato.telemetry.otel import OtelObserver
from tests.telemetry.conftest import Telemetry


class Broken:
    """Whoever touches it fails."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("broken")

    def __bool__(self) -> bool:
        return True


class BrokenTracerProvider(NoOpTracerProvider):
    def get_tracer(self, *args: Any, **kwargs: Any) -> NoOpTracer:
        return BrokenTracer()


class BrokenTracer(NoOpTracer):
    def start_span(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("broken")


def test_a_tracer_that_fails(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    observer = OtelObserver(tracer_provider=BrokenTracerProvider(), meter_provider=telemetry.meter_provider)
    operation = observer.begin(OperationRecord(call=Call(request_id="r")))
    with operation.step(Step(name="attempt")):
        pass
    operation.retry(NoImageError("m"), attempt=1, delay_seconds=0)
    operation.end()
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR]


def test_a_record_that_cannot_be_counted(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    made = OperationRecord(call=Call(request_id="r"))
    operation = telemetry.observer.begin(made)
    made.charges = Broken()  # type: ignore[assignment]  # that is the point
    made.fresh_usage = Broken()  # type: ignore[assignment]  # the same
    with operation.step(Step(name="attempt", server=Broken())):  # type: ignore[arg-type]  # the same
        worked = True
    operation.end()
    assert worked
    assert caplog.records


class BrokenProcessor(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("broken")


def test_a_span_processor_that_fails_loses_no_counts(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    telemetry.tracer_provider.add_span_processor(BrokenProcessor())
    operation = telemetry.observer.begin(OperationRecord(call=Call(request_id="r"), charges=[Charge("first", 0.5)]))
    with operation.step(Step(name="attempt", account="first", outcome="ok")):
        pass
    operation.end()
    points = telemetry.points()
    assert points["gemini_image.account.requests"][0][1] == 1
    assert points["gemini_image.requests"][0][1] == 1
    assert points["gemini_image.cost"][0][1] == 0.5
    assert "Telemetry failed" in caplog.text


def test_a_client_that_cannot_be_watched(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    telemetry.observer.watch(Broken())
    assert "Telemetry failed" in caplog.text
