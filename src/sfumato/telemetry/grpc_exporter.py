"""Spans over OTLP/gRPC in our encoding; loaded when it is asked for, with the extra ``otlp-grpc``."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

from sfumato.telemetry.encoding import encode


class GrpcSpanExporter(OTLPSpanExporter):
    """OpenTelemetry's exporter, which is given a message to send, and sends it and tries again as ever."""

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        # gRPC's stub takes a message; reading it from bytes costs little.
        message: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(encode(data))
        return message
