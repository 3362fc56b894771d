"""Light spans beside the SDK's: who looks sees no difference."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from sfumato.telemetry import names
from sfumato.telemetry.light import LightTracerProvider
from sfumato.telemetry.light_span import LightSpan

RESOURCE = Resource({"service.name": "sfumato"})
TRACE = 0x0AF7651916CD43DD8448EB211C80319C
MOMENT = 1_700_000_000_000_000_000


def caller(*, sampled: bool, random: bool = False) -> Context:
    flags = TraceFlags(sampled | random << 1)
    above = SpanContext(TRACE, 0xB7AD6B7169203331, True, flags, TraceState([("a", "1")]))  # noqa: FBT003  # its signature
    return trace.set_span_in_context(trace.NonRecordingSpan(above), Context())


def tell(provider: TracerProvider) -> list[dict[str, Any]]:
    """Do to spans whatever can be done to them; return them as they are shown, but for their own ids."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer(names.SCOPE, schema_url=names.SCHEMA_URL)
    whole = tracer.start_span(
        "first", caller(sampled=True), SpanKind.CLIENT, {"a": 1, "b": True, "c": 0.5}, None, MOMENT
    )
    beneath = trace.set_span_in_context(whole, Context())
    step = tracer.start_span("step", beneath, attributes={"tuple": ["x", "y"]}, start_time=MOMENT)
    step.set_attribute("more", "text")
    step.set_attributes({"a": "b", "nested": {"k": [1, 2]}})
    step.set_status(StatusCode.ERROR, "IMG_TIMEOUT")
    step.add_event("retry", {"attempt": 1, "why": ["a"]}, MOMENT)
    step.add_link(whole.get_span_context(), {"because": "it is"})
    step.end(MOMENT + 5)
    whole.update_name("second")
    whole.set_status(Status(StatusCode.OK))
    whole.set_status(StatusCode.ERROR)
    whole.set_attributes({f"n{number}": number for number in range(300)})
    for number in range(200):
        whole.add_event("often", timestamp=MOMENT + number)
    whole.end(MOMENT + 9)
    # It has ended, and stays as it is.
    whole.end(MOMENT + 10)
    whole.set_attribute("late", "late")
    whole.add_event("late")
    whole.add_link(step.get_span_context())
    whole.update_name("late")
    whole.set_status(StatusCode.ERROR)
    finished = exporter.get_finished_spans()
    dropped = [{"dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links)} for span in finished]
    own = format(whole.get_span_context().span_id, "016x")
    told = [json.loads(span.to_json().replace(own, "own")) for span in finished]
    for span in told:
        for link in (span, *span["links"]):
            link["context"].pop("span_id")
    provider.shutdown()
    return [span | more for span, more in zip(told, dropped, strict=True)]


def test_they_are_shown_as_the_sdk_s() -> None:
    shown = tell(LightTracerProvider(RESOURCE))
    assert [span["name"] for span in shown] == ["step", "second"]
    assert shown == tell(TracerProvider(resource=RESOURCE, shutdown_on_exit=False))


@pytest.mark.parametrize(
    ("name", "kind"),
    [(names.SCOPE, LightSpan), ("opentelemetry.instrumentation.httpx", LightSpan), ("of.somebody.else", Span)],
)
def test_only_our_own_and_our_client_s_are_light(name: str, kind: type[trace.Span]) -> None:
    span = LightTracerProvider(RESOURCE).get_tracer(name).start_span("any")
    assert isinstance(span, kind)
    assert span.is_recording()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3"),
        ("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true"),
    ],
)
def test_what_is_uncommon_is_left_to_the_sdk(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    span = LightTracerProvider(RESOURCE).get_tracer(names.SCOPE).start_span("any", attributes={"a": "text"})
    assert isinstance(span, Span)


def test_a_span_with_links_from_its_start_is_the_sdk_s() -> None:
    tracer = LightTracerProvider(RESOURCE).get_tracer(names.SCOPE)
    above = trace.get_current_span(caller(sampled=True)).get_span_context()
    span = tracer.start_span("any", links=[Link(above)])
    assert isinstance(span, Span)
    assert len(span.links) == 1


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_the_caller_decides_whether_a_trace_is_recorded(*, sampled: bool, random: bool) -> None:
    above = caller(sampled=sampled, random=random)
    light, theirs = (
        provider.get_tracer(names.SCOPE).start_span("any", above)
        for provider in (LightTracerProvider(RESOURCE), TracerProvider(resource=RESOURCE, shutdown_on_exit=False))
    )
    assert light.is_recording() == theirs.is_recording() == sampled
    one, other = light.get_span_context(), theirs.get_span_context()
    assert (one.trace_id, one.trace_flags, one.trace_state) == (TRACE, other.trace_flags, other.trace_state)
    assert one.span_id != other.span_id


def test_a_root_has_an_own_trace_and_the_sdk_s_flags() -> None:
    light, theirs = (
        provider.get_tracer(names.SCOPE).start_span("any", Context()).get_span_context()
        for provider in (LightTracerProvider(RESOURCE), TracerProvider(resource=RESOURCE, shutdown_on_exit=False))
    )
    assert light.is_valid
    assert light.trace_id != theirs.trace_id
    assert light.trace_flags == theirs.trace_flags


def test_an_exception_is_an_event() -> None:
    span = LightTracerProvider(RESOURCE).get_tracer(names.SCOPE).start_span("any")
    try:
        raise ValueError("why")  # noqa: TRY301  # with a traceback
    except ValueError as error:
        span.record_exception(error, {"more": 1})
    assert isinstance(span, LightSpan)
    (event,) = span.events
    told = dict(event.attributes or {})
    assert event.name == "exception"
    assert (told["exception.type"], told["exception.message"], told["more"]) == ("ValueError", "why", 1)
    assert "raise ValueError" in str(told["exception.stacktrace"])


def test_a_current_span_ends_with_its_context() -> None:
    tracer = LightTracerProvider(RESOURCE).get_tracer(names.SCOPE)
    with tracer.start_as_current_span("any", kind=SpanKind.CLIENT, attributes={"a": 1}) as span:
        assert trace.get_current_span() is span
        assert isinstance(span, LightSpan)
    assert trace.get_current_span() is not span
    assert not span.is_recording()
    assert (span.kind, dict(span.attributes)) == (SpanKind.CLIENT, {"a": 1})
    with tracer.start_as_current_span("any", end_on_exit=False) as open_span:
        pass
    assert open_span.is_recording()


@pytest.mark.parametrize("quiet", [{}, {"record_exception": False}, {"set_status_on_exception": False}])
def test_a_current_span_tells_of_an_exception_as_the_sdk_s_does(quiet: dict[str, Any]) -> None:
    told = []
    for provider in (LightTracerProvider(RESOURCE), TracerProvider(resource=RESOURCE, shutdown_on_exit=False)):
        with (
            pytest.raises(ValueError, match="why"),
            provider.get_tracer(names.SCOPE).start_as_current_span("any", **quiet) as span,
        ):
            raise ValueError("why")
        assert isinstance(span, LightSpan | Span)
        told.append((span.status.status_code, span.status.description, [event.name for event in span.events]))
    assert told[0] == told[1]
