"""Spans for OpenTelemetry's SDK at a quarter of the cost of its own: of our own scope, where we install the provider.

The SDK's span is ready for anything: attributes are checked and copied one by one under two locks, a sampler is asked
what it answered before, and a span that ends is copied. That was an eighth of a hit of a small picture. A light span is
processed, exported and shown like the SDK's. Where something uncommon is asked for, of samplers, limits or links, the
SDK makes its own.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from time import time_ns
from types import MappingProxyType
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes, AttributeValue

from sfumato.telemetry import names

# More than any span of ours has.
_ATTRIBUTES: Final = 64
_PLAIN: Final = frozenset({str, int, float, bool})
_SAMPLED: Final = TraceFlags.SAMPLED
# Older releases than 1.45 may not know it, and do not set it.
_RANDOM: Final[int] = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
# Made once.
_FLAGS: Final = tuple(TraceFlags(flags) for flags in range(4))
_UNSET: Final = Status(StatusCode.UNSET)


def counts_itself() -> bool:
    """Tell whether the SDK is asked to count its own spans and exports, which it does in its own code only."""
    return os.environ.get("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "").strip().lower() == "true"


class LightTracerProvider(sdk.TracerProvider):
    """The SDK's provider, with light spans for our own scope.

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
        """Return a tracer: a light one for our own scope, the SDK's for all others."""
        tracer = super().get_tracer(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        if instrumenting_module_name != names.SCOPE or not isinstance(tracer, sdk.Tracer) or not self._is_common():
            return tracer
        scope = InstrumentationScope(
            instrumenting_module_name, instrumenting_library_version or "", schema_url, attributes
        )
        return LightTracer(tracer, scope, self._limits)

    def _is_common(self) -> bool:
        limits = self._limits
        return (
            self.sampler is DEFAULT_ON
            and limits.max_span_attribute_length is None
            and (limits.max_span_attributes is None or limits.max_span_attributes >= _ATTRIBUTES)
            and not counts_itself()
        )


class LightTracer(trace.Tracer):
    """Make light spans where the SDK's tracer would make its own.

    Args:
        tracer: The SDK's, with its resource, processors and ids.
        scope: What the spans are of.
        limits: What the SDK allows.
    """

    def __init__(self, tracer: sdk.Tracer, scope: InstrumentationScope, limits: sdk.SpanLimits) -> None:
        self.tracer = tracer
        self.scope = scope
        self.limits = limits

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
        tracer = self.tracer
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
        span = LightSpan(self, name, own, parent, kind, time_ns() if start_time is None else start_time)
        if attributes:
            span.set_attributes(attributes)
        tracer.span_processor.on_start(cast("sdk.Span", span), context)
        return span

    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Start a span of the SDK's as the current one; nobody here does."""
        return cast("AbstractContextManager[trace.Span]", self.tracer.start_as_current_span(name, *args, **kwargs))


class LightSpan(trace.Span):
    """A span that offers what `opentelemetry.sdk.trace.ReadableSpan` does.

    Attributes:
        tracer: Who made it.
        context: Its ids.
        parent: Its parent's.
        start_time, end_time: Nanoseconds since 1970; None while it runs.
    """

    # What most spans never have stands here once.
    end_time: int | None = None
    status: Status = _UNSET
    events: Sequence[sdk.Event] = ()
    links: Sequence[Link] = ()

    def __init__(  # noqa: PLR0917  # a span is no less
        self,
        tracer: LightTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start_time: int,
    ) -> None:
        self.tracer = tracer
        self._attributes: MutableMapping[str, AttributeValue] = {}
        self.name = name
        self.context = context
        self.parent = parent
        self.kind = kind
        self.start_time = start_time

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """Return the attributes."""
        return MappingProxyType(self._attributes)

    @property
    def plain_attributes(self) -> Mapping[str, AttributeValue] | None:
        """Return the attributes if they are text and numbers, and the span has nothing but them and its times."""
        held = self._attributes
        plain = self.status is _UNSET and not (self.events or self.links or self.context.trace_state)
        return held if plain and type(held) is dict else None

    @property
    def resource(self) -> Resource:
        """Return what stands for this process."""
        return self.tracer.tracer.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """Return whose span it is."""
        return self.tracer.scope

    @property
    def dropped_attributes(self) -> int:
        """Return how many attributes were too many."""
        return getattr(self._attributes, "dropped", 0)

    @property
    def dropped_events(self) -> int:
        """Return how many events were too many."""
        return getattr(self.events, "dropped", 0)

    @property
    def dropped_links(self) -> int:
        """Return how many links were too many."""
        return getattr(self.links, "dropped", 0)

    def get_span_context(self) -> SpanContext:
        """Return its ids."""
        return self.context

    def is_recording(self) -> bool:
        """Tell whether it has not ended."""
        return self.end_time is None

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes; what is not plain the SDK's own container checks."""
        if self.end_time is not None:
            return
        held = self._attributes
        if _PLAIN.issuperset(map(type, attributes.values())) and len(held) + len(attributes) <= _ATTRIBUTES:
            held.update(attributes)
            return
        limits = self.tracer.limits
        self._attributes = BoundedAttributes(limits.max_span_attributes, {**held, **attributes}, immutable=False)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event."""
        if self.end_time is not None:
            return
        limits = self.tracer.limits
        if not isinstance(self.events, BoundedList):
            self.events = BoundedList(limits.max_events)
        held = BoundedAttributes(limits.max_event_attributes, attributes, max_value_len=limits.max_attribute_length)
        self.events.append(sdk.Event(name, held, timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link."""
        if self.end_time is not None or not context.is_valid:
            return
        limits = self.tracer.limits
        if not isinstance(self.links, BoundedList):
            self.links = BoundedList(limits.max_links)
        held = BoundedAttributes(limits.max_link_attributes, attributes, max_value_len=limits.max_attribute_length)
        self.links.append(Link(context, held))

    def update_name(self, name: str) -> None:
        """Change the name."""
        if self.end_time is None:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; OK is final, and UNSET sets nothing."""
        told = status if isinstance(status, Status) else Status(status, description)
        if self.end_time is None and self.status.status_code is not StatusCode.OK and not told.is_unset:
            self.status = told

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002  # OpenTelemetry's signature
    ) -> None:
        """Add the event of an exception."""
        told: dict[str, AttributeValue] = {
            "exception.type": f"{type(exception).__module__}.{type(exception).__qualname__}".removeprefix("builtins."),
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**told, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End it; only the first time counts."""
        if self.end_time is None:
            self.end_time = time_ns() if end_time is None else end_time
            self.tracer.tracer.span_processor.on_end(cast("sdk.ReadableSpan", self))

    def to_json(self, indent: int | None = 4) -> str:
        """Return it as the SDK prints spans."""
        whole = sdk.ReadableSpan(
            self.name,
            self.context,
            self.parent,
            self.resource,
            self._attributes,
            self.events,
            self.links,
            self.kind,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            instrumentation_scope=self.instrumentation_scope,
        )
        return str(whole.to_json(indent))
