from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, cast

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as EncodedSpan
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from sfumato.telemetry import names
from sfumato.telemetry.encoding import encode
from sfumato.telemetry.grpc_exporter import GrpcSpanExporter
from sfumato.telemetry.http_exporter import HttpSpanExporter
from sfumato.telemetry.light import LightTracerProvider
from sfumato.telemetry.light_span import LightSpan

PROVIDER = LightTracerProvider(Resource({"service.name": "sfumato", "worker": 3}))
TRACER = PROVIDER.get_tracer(names.SCOPE, schema_url=names.SCHEMA_URL)
HIT: dict[str, Any] = {
    names.OPERATION_NAME: names.GENERATE_CONTENT,
    names.REQUEST_ID: "req_1",
    names.SAVINGS_USD: 0.134,
    names.REQUEST_SEED: -5,
    names.REQUEST_CHOICE_COUNT: 1,
}


def ended(name: str = "any", **fields: Any) -> LightSpan:
    """Return a span that has ended."""
    span = TRACER.start_span(name, **fields)
    span.end()
    assert isinstance(span, LightSpan)
    return span


def spans_in(data: bytes) -> dict[bytes, tuple[str, str, EncodedSpan]]:
    """Return the spans by their id, each with its resource and scope."""
    return {
        span.span_id: (str(resource.resource) + resource.schema_url, str(scope.scope) + scope.schema_url, span)
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def theirs(spans: list[Any]) -> dict[bytes, tuple[str, str, EncodedSpan]]:
    return spans_in(encode_spans(cast("list[ReadableSpan]", spans)).SerializeToString())


def parent(*, remote: bool, state: str = "") -> Context:
    states = TraceState([("vendor", state)] if state else [])
    above = SpanContext(7, 9, remote, TraceFlags(1), states)
    return trace.set_span_in_context(trace.NonRecordingSpan(above), Context())


@pytest.mark.parametrize(
    "fields",
    [
        {"attributes": HIT, "kind": SpanKind.CLIENT},
        {"name": "gemini_image.cache.lookup", "context": parent(remote=False)},
        {"context": parent(remote=True), "attributes": {"ä" * 70: "€" * 5000, "empty": ""}},
        {"attributes": {"one": 1, "true": True, "real": 1.0, "none": 0, "false": False, "nothing": 0.0}},
        {"attributes": {"large": 2**62, "small": -(2**62), "tiny": -1.5e-300}},
    ],
    ids=["a hit", "a child", "a remote child", "kinds of one and nothing", "large numbers"],
)
def test_plain_spans_are_encoded_as_opentelemetry_does(fields: dict[str, Any]) -> None:
    span = ended(**fields)
    assert span.plain_attributes is not None
    assert spans_in(encode([span])) == theirs([span])


def test_values_that_are_equal_stay_what_they_are() -> None:
    spans = [ended(attributes={"same": value}) for value in (1, True, 1.0, 1)]
    assert spans_in(encode(spans)) == theirs(spans)


def test_what_is_not_plain_is_encoded_too() -> None:
    changes: list[Callable[[Any], None]] = [
        lambda span: span.set_attributes({"words": ["a", "b"]}),
        lambda span: span.add_event("retry", {"attempt": 1}),
        lambda span: span.add_link(SpanContext(1, 2, is_remote=False)),
        lambda span: span.set_status(StatusCode.ERROR, "IMG_TIMEOUT"),
    ]
    spans: list[Any] = [ended(), ended(context=parent(remote=True, state="x")), ended(attributes=HIT)]
    for tracer in (TRACER, PROVIDER.get_tracer("of.somebody.else", "1.0")):
        for change in changes:
            span = tracer.start_span("rich")
            change(span)
            span.end()
            spans.insert(0, span)
    assert len(theirs(spans)) == 11
    assert spans_in(encode(spans)) == theirs(spans)


class Google(httpx.AsyncBaseTransport):
    """Answer with what the address says, or not at all."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        status = int(request.url.path.rpartition("/")[2])
        if not status:
            raise httpx.ConnectError("refused")
        return httpx.Response(status, extensions={"http_version": b"HTTP/1.1"})


@pytest.mark.anyio
async def test_spans_of_our_client_are_encoded_as_opentelemetry_does() -> None:
    provider, exporter = LightTracerProvider(Resource({"service.name": "sfumato"})), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traced = AsyncOpenTelemetryTransport(Google(), tracer_provider=provider)
    async with httpx.AsyncClient(transport=traced) as client:
        for status in (200, 302, 429, 503):
            await client.post(f"https://gemini.test:8443/v1/{status}", content=b"body")
        with pytest.raises(httpx.ConnectError):
            await client.post("https://gemini.test:8443/v1/0", content=b"body")
    spans: list[Any] = list(exporter.get_finished_spans())
    assert all(isinstance(span, LightSpan) for span in spans)
    # Those of errors have a status, and the last one an event.
    assert [span.plain_attributes is not None for span in spans] == [True, True, False, False, False]
    assert [len(span.events) for span in spans] == [0, 0, 0, 0, 1]
    assert len({span.attributes[key] for span in spans for key in span.attributes if key.endswith("status_code")}) == 4
    encoded = spans_in(encode(spans))
    assert encoded == theirs(spans)
    assert all(
        "opentelemetry.instrumentation.httpx" in scope and "/schemas/" in scope for _, scope, _ in encoded.values()
    )


def test_what_is_no_text_costs_the_attribute_only() -> None:
    spans = [ended(attributes={"good": "yes", "bad": "\ud800"}), ended(attributes=HIT)]
    arrived = [span for _, _, span in spans_in(encode(spans)).values()]
    assert sorted(attribute.key for span in arrived for attribute in span.attributes) == sorted(["good", *HIT])


def test_nothing_is_nothing() -> None:
    assert encode([]) == b""


def test_grpc_is_given_the_same() -> None:
    spans = cast("list[ReadableSpan]", [ended(attributes=HIT), ended(context=parent(remote=True, state="x"))])
    exporter = GrpcSpanExporter(endpoint="http://127.0.0.1:1", insecure=True)
    try:
        assert spans_in(exporter._translate_data(spans).SerializeToString()) == theirs(spans)
    finally:
        exporter.shutdown()


class Collector(ThreadingHTTPServer):
    """Answer with what is listed, then with 200."""

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:  # the base class names it
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        pass


@contextmanager
def collecting(*answers: int) -> Iterator[Collector]:
    with Collector(*answers) as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def export(exporter: HttpSpanExporter, span: LightSpan) -> SpanExportResult:
    try:
        return exporter.export(cast("list[ReadableSpan]", [span]))
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]  # OpenTelemetry's


def test_a_collector_that_is_busy_is_asked_again() -> None:
    span = ended(attributes=HIT)
    # Older releases of OpenTelemetry ask nobody again who answers with 429.
    with collecting(503) as collector:
        assert export(HttpSpanExporter(collector.url), span) is SpanExportResult.SUCCESS
        assert [spans_in(body) for body in collector.bodies] == [theirs([span])] * 2


def test_a_collector_that_refuses_is_a_failure() -> None:
    with collecting(400) as collector:
        assert export(HttpSpanExporter(collector.url), ended()) is SpanExportResult.FAILURE
        assert len(collector.bodies) == 1


@pytest.mark.skipif(
    "max_request_size" not in inspect.signature(OTLPSpanExporter).parameters, reason="this OpenTelemetry has no bound"
)
def test_what_is_too_large_is_not_sent() -> None:
    with collecting() as collector:
        exporter = HttpSpanExporter(collector.url, max_request_size=20)
        assert export(exporter, ended()) is SpanExportResult.FAILURE
        assert not collector.bodies


def test_nothing_is_sent_after_the_end() -> None:
    with collecting() as collector:
        exporter = HttpSpanExporter(collector.url)
        exporter.shutdown()  # type: ignore[no-untyped-call]  # OpenTelemetry's
        assert exporter.export([]) is SpanExportResult.FAILURE
        assert not collector.bodies


def test_compression_is_opentelemetry_s() -> None:
    with collecting() as collector:
        exporter = HttpSpanExporter(collector.url, compression=Compression.Gzip)
        assert export(exporter, ended(attributes=HIT)) is SpanExportResult.SUCCESS
        assert collector.bodies[0].startswith(b"\x1f\x8b")
