"""An OTLP receiver on loopback, HTTP and gRPC: what arrived, as it arrived."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]  # it has no types
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1 import trace_pb2

T = TypeVar("T")
_KINDS = trace_pb2.Span.SpanKind.Name
_CODES = trace_pb2.Status.StatusCode.Name


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived."""

    name: str
    kind: str
    scope: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]
    status: str


@dataclass(frozen=True)
class ReceivedPoint:
    """A metric's point as it arrived."""

    name: str
    unit: str
    scope: str
    attributes: dict[str, Any]
    value: float
    count: int


@dataclass
class Receiver:
    """Everything that arrived, and where it may be sent to."""

    http_url: str = ""
    grpc_url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    points: list[ReceivedPoint] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    def await_spans(
        self, enough: Callable[[list[ReceivedSpan]], bool], *, timeout_seconds: float = 120
    ) -> list[ReceivedSpan]:
        """Return the spans as soon as they are *enough*."""
        return self._await(self.spans, enough, timeout_seconds)

    def await_points(
        self, enough: Callable[[list[ReceivedPoint]], bool], *, timeout_seconds: float = 120
    ) -> list[ReceivedPoint]:
        """Return the points as soon as they are *enough*."""
        return self._await(self.points, enough, timeout_seconds)

    def _await(self, seen: list[T], enough: Callable[[list[T]], bool], timeout_seconds: float) -> list[T]:
        deadline = time.monotonic() + timeout_seconds
        with self._arrived:
            while not enough(seen):
                if not self._arrived.wait(deadline - time.monotonic()):
                    raise AssertionError(f"not enough arrived: {str(seen)[-3000:]}")
            return list(seen)

    def take_traces(self, body: bytes) -> bytes:
        """Keep the spans of an export request; return the answer, which has nothing to say."""
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        found = [
            _span(span, scope.scope.name, _attributes(resource.resource.attributes))
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._arrived:
            self.bodies.append(body)
            self.spans.extend(found)
            self._arrived.notify_all()
        return b""

    def take_metrics(self, body: bytes) -> bytes:
        """Keep the points of an export request; return the answer, which has nothing to say."""
        request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
        found = [
            point
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in _points(metric, scope.scope.name)
        ]
        with self._arrived:
            self.bodies.append(body)
            self.points.extend(found)
            self._arrived.notify_all()
        return b""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive OTLP over HTTP and gRPC."""
    receiver = Receiver()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
    receiver.http_url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(receiver), server)  # type: ignore[no-untyped-call]  # generated
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(receiver), server)  # type: ignore[no-untyped-call]  # generated
        receiver.grpc_url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield receiver
        finally:
            server.stop(grace=None).wait()
            http.shutdown()
            thread.join()
            http.server_close()


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            take = {"/v1/traces": receiver.take_traces, "/v1/metrics": receiver.take_metrics}.get(self.path)
            answer = take(body) if take else b""
            self.send_response(200 if take else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
            """Keep quiet."""

    return Handler


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the service's name
        self._receiver.take_traces(request.SerializeToString())
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the service's name
        self._receiver.take_metrics(request.SerializeToString())
        return metrics_service_pb2.ExportMetricsServiceResponse()


def _span(span: trace_pb2.Span, scope: str, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=_KINDS(span.kind).removeprefix("SPAN_KIND_"),
        scope=scope,
        service=str(resource.get("service.name")),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        events=tuple((event.name, _attributes(event.attributes)) for event in span.events),
        status=_CODES(span.status.code).removeprefix("STATUS_CODE_"),
    )


def _points(metric: Metric, scope: str) -> Iterator[ReceivedPoint]:
    kind = metric.WhichOneof("data")
    for point in getattr(metric, kind).data_points if kind else ():
        is_histogram = kind == "histogram"
        value = point.sum if is_histogram else getattr(point, point.WhichOneof("value"))
        count = point.count if is_histogram else 1
        yield ReceivedPoint(metric.name, metric.unit, scope, _attributes(point.attributes), value, count)


def _attributes(pairs: Any) -> dict[str, Any]:
    found: list[KeyValue] = list(pairs)
    return {pair.key: _value(pair.value) for pair in found}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
