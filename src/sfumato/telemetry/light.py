"""Spans for OpenTelemetry's SDK at a quarter of the cost of its own: ours, where we install the provider.

The SDK's span is ready for anything: attributes are checked and copied one by one under two locks, a sampler is asked
what it answered before, and a span that ends is copied. That was an eighth of a hit of a small picture. A light span is
processed, exported and shown like the SDK's. Where something uncommon is asked for, of samplers, limits or links, the
SDK makes its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import time_ns
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import Attributes

from sfumato.telemetry import names
from sfumato.telemetry.light_span import ATTRIBUTES, LightSpan, SpanOrigin

# Ours, and those of our own client's instrumentation: each call to Google has one.
_SCOPES: Final = frozenset({names.SCOPE, "opentelemetry.instrumentation.httpx"})
_SAMPLED: Final = TraceFlags.SAMPLED
# Older releases than 1.45 may not know it, and do not set it.
_RANDOM: Final[int] = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
# Made once.
_FLAGS: Final = tuple(TraceFlags(flags) for flags in range(4))


def counts_itself() -> bool:
    """Tell whether the SDK is asked to count its own spans and exports, which it does in its own code only."""
    return os.environ.get("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "").strip().lower() == "true"


class LightTracerProvider(sdk.TracerProvider):
    """The SDK's provider, with light spans for our own scopes.

    Args:
        resource: What stands for this process.
    """

    def __init__(self, resource: Resource) -> None:
        self._limits = sdk.SpanLimits()
        super().__init__(resource=resource, shutdown_on_exit=False, span_limits=self._limits)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace.Tracer:
        """Return a tracer: a light one for our own scopes, the SDK's for all others."""
        tracer = super().get_tracer(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        if instrumenting_module_name not in _SCOPES or not isinstance(tracer, sdk.Tracer) or not self._is_common():
            return tracer
        scope = InstrumentationScope(
            instrumenting_module_name, instrumenting_library_version or "", schema_url, attributes
        )
        return LightTracer(SpanOrigin(tracer, scope, self._limits))

    def _is_common(self) -> bool:
        limits = self._limits
        return (
            self.sampler is DEFAULT_ON
            and limits.max_span_attribute_length is None
            and (limits.max_span_attributes is None or limits.max_span_attributes >= ATTRIBUTES)
            and not counts_itself()
        )


class LightTracer(trace.Tracer):
    """Make light spans where the SDK's tracer would make its own.

    Args:
        origin: What they have in common.
    """

    def __init__(self, origin: SpanOrigin) -> None:
        self.origin = origin

    def start_span(  # noqa: PLR0917  # OpenTelemetry's signature
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002  # the same
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002  # the same
    ) -> trace.Span:
        """Start a span, which may be one that records nothing, if the caller's does not."""
        tracer = self.origin.tracer
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        if parent is not None and parent.is_valid:
            trace_id, state, flags = parent.trace_id, parent.trace_state, parent.trace_flags & (_SAMPLED | _RANDOM)
        else:
            trace_id, state, flags = tracer.id_generator.generate_trace_id(), None, _SAMPLED | _RANDOM
            parent = None
        if links or not flags & _SAMPLED:
            return tracer.start_span(
                name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
            )
        own_id = tracer.id_generator.generate_span_id()
        own = SpanContext(trace_id, own_id, is_remote=False, trace_flags=_FLAGS[flags], trace_state=state)
        span = LightSpan(self.origin, name, own, parent, kind, time_ns() if start_time is None else start_time)
        if attributes:
            span.set_attributes(attributes)
        tracer.span_processor.on_start(cast("sdk.Span", span), context)
        return span

    def start_as_current_span(self, name: str, *args: Any, **options: Any) -> Any:
        """Start a span that is the current one within the context, and ends with it."""
        return self._current_span(name, *args, **options)

    @contextmanager
    def _current_span(
        self,
        name: str,
        *args: Any,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
        **options: Any,
    ) -> Iterator[trace.Span]:
        span = self.start_span(name, *args, **options)
        with trace.use_span(span, end_on_exit, record_exception, set_status_on_exception):
            yield span
