"""Spans over OTLP/HTTP in our encoding; loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from sfumato.telemetry.encoding import encode
from sfumato.telemetry.light import counts_itself


class HttpSpanExporter(OTLPSpanExporter):
    """OpenTelemetry's exporter, which is given bytes to send, and sends them and tries again as ever."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans*."""
        # What sends bytes has no public name, and none at all before 1.45 of 2026: then all is left to OpenTelemetry,
        # as it is when it would refuse, and when it counts its own exports.
        send: Any = getattr(getattr(self, "_client", None), "export", None)
        if send is None or self._shutdown or counts_itself():
            return super().export(spans)
        data = encode(spans)
        if 0 < getattr(self, "_max_request_size", 0) < len(data):
            return super().export(spans)
        return SpanExportResult.SUCCESS if send(data).success else SpanExportResult.FAILURE
