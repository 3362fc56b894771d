"""A span of one thread, without the SDK's locks and copies, that is processed, exported and shown like the SDK's."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from time import time_ns
from types import MappingProxyType
from typing import Final, cast

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

# More than any span of ours or of our client's has.
ATTRIBUTES: Final = 64
_PLAIN: Final = frozenset({str, int, float, bool})
# Made once.
_UNSET: Final = Status(StatusCode.UNSET)


@dataclass(frozen=True, slots=True, eq=False)
class SpanOrigin:
    """What the spans of one tracer have in common.

    Attributes:
        tracer: The SDK's, with its resource, processors and ids.
        scope: What the spans are of.
        limits: What the SDK allows.
    """

    tracer: sdk.Tracer
    scope: InstrumentationScope
    limits: sdk.SpanLimits


class LightSpan(trace.Span):
    """A span that offers what `opentelemetry.sdk.trace.ReadableSpan` does.

    Attributes:
        origin: Whose it is.
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
        origin: SpanOrigin,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start_time: int,
    ) -> None:
        self.origin = origin
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
        return self.origin.tracer.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """Return whose span it is."""
        return self.origin.scope

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
        if _PLAIN.issuperset(map(type, attributes.values())) and len(held) + len(attributes) <= ATTRIBUTES:
            held.update(attributes)
            return
        limits = self.origin.limits
        self._attributes = BoundedAttributes(limits.max_span_attributes, {**held, **attributes}, immutable=False)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event."""
        if self.end_time is not None:
            return
        limits = self.origin.limits
        if not isinstance(self.events, BoundedList):
            self.events = BoundedList(limits.max_events)
        held = BoundedAttributes(limits.max_event_attributes, attributes, max_value_len=limits.max_attribute_length)
        self.events.append(sdk.Event(name, held, timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link."""
        if self.end_time is not None or not context.is_valid:
            return
        limits = self.origin.limits
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
            self.origin.tracer.span_processor.on_end(cast("sdk.ReadableSpan", self))

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
