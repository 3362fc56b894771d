"""The spans of one request: one of the operation, one of each step. It only uses OpenTelemetry's API.

The work on a request runs on tasks of its own, in contexts of their own, and may outlive the request. So nothing here
relies on what is current, except where a request begins: each span's context is kept, and made current within its step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context, create_key, set_value
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sfumato.errors import ImageError
from sfumato.images.request import Usage
from sfumato.telemetry import names
from sfumato.telemetry.metrics import error_type_of, family_of, outcome_of
from sfumato.telemetry.observer import Call, OperationRecord, Step

T = TypeVar("T")
ATTEMPT_KEY: Final = create_key("sfumato-attempt")
PROVIDERS: Final[Mapping[str | None, str]] = {"vertex": names.VERTEX}
_SPAN_NAMES = {
    "cache.lookup": names.CACHE_LOOKUP_SPAN,
    "attempt": names.ATTEMPT_SPAN,
    "cache.store": names.CACHE_STORE_SPAN,
}
_HTTPS_PORT = 443
# Contexts are never changed, only copied.
_NOTHING: Final = Context()
_PROPAGATOR = TraceContextTextMapPropagator()
# What W3C's Trace Context has everybody hand on (level 1, 3.3.1.1 and 3.3.1.5).
_HEADER_CHARACTERS: Final = 512
_STATE_MEMBERS: Final = 32
_STATE_MEMBER: Final = re.compile(
    r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class OperationSpan:
    """The span of one request, begun in the request's own context.

    Args:
        tracer: Makes spans.
        record: The request's record; it is told the span's ids.
    """

    def __init__(self, tracer: Tracer, record: OperationRecord) -> None:
        self._tracer = tracer
        self._record = record
        self.provider = names.GEMINI
        self._finish_reasons: list[str] = []
        self._model = family_of(record)
        self._span = _start(
            tracer,
            _name(self._model),
            parent_context(record.call),
            kind=SpanKind.CLIENT,
            attributes={
                names.OPERATION_NAME: names.GENERATE_CONTENT,
                names.PROVIDER_NAME: names.GEMINI,
                names.OUTPUT_TYPE: names.IMAGE,
                names.REQUEST_ID: record.call.request_id,
                **({names.REQUEST_MODEL: self._model} if self._model else {}),
            },
        )
        # Whoever called may have baggage; it is not for Google.
        self.context = trace.set_span_in_context(self._span, _NOTHING)
        context = self._span.get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
            # Without an SDK this is the parent's span, and one that a sampler dropped is found nowhere.
            record.span_id = trace.format_span_id(context.span_id) if self._span.is_recording() else None

    def begin_step(self, step: Step) -> tuple[Span, Context]:
        """Begin a step's span; return it and the context that its work is to run in."""
        if step.name != "attempt":
            span = _start(self._tracer, _SPAN_NAMES[step.name], self.context)
            return span, trace.set_span_in_context(span, _NOTHING)
        host, port = _split(step.server or "")
        self.provider = PROVIDERS.get(step.backend, names.GEMINI)
        server: dict[str, Any] = {names.SERVER_ADDRESS: host, names.SERVER_PORT: port} if host else {}
        self._span.set_attributes(server)
        attributes = {
            names.ATTEMPT: step.attempt,
            names.ACCOUNT: step.account,
            names.PROVIDER_NAME: self.provider,
            names.REQUEST_MODEL: self._model,
            **server,
        }
        span = _start(self._tracer, _SPAN_NAMES[step.name], self.context, attributes=_present(attributes))
        return span, set_value(ATTEMPT_KEY, True, trace.set_span_in_context(span, _NOTHING))  # noqa: FBT003  # a value

    def end_step(self, span: Span, step: Step) -> None:
        """End a step's span with what became of it."""
        if step.finish_reason:
            self._finish_reasons.append(step.finish_reason)
        if step.response_id:
            self._span.set_attribute(names.RESPONSE_ID, step.response_id)
        if span.is_recording():
            told: dict[str, Any] = {
                names.SLOT: step.slot or None,
                names.STEP_OUTCOME: step.outcome,
                names.RESPONSE_ID: step.response_id,
                names.RESPONSE_FINISH_REASONS: [step.finish_reason] if step.finish_reason else None,
                names.ERROR_REASON: step.error.reason if step.error else None,
            }
            span.set_attributes(_present(told))
        if step.error is not None:
            _fail(span, step.error.code)
        span.end()

    def retry(self, error: ImageError, *, attempt: int, delay_seconds: float) -> None:
        """Add the event of an attempt that is followed by another."""
        event: dict[str, str | int | float | None] = {
            names.ERROR_TYPE: error.code,
            names.ERROR_REASON: error.reason,
            names.ATTEMPT: attempt,
            names.RETRY_DELAY_SECONDS: delay_seconds,
        }
        self._span.add_event(names.RETRY_EVENT, _present(event))

    def end(self, *, tenant: str) -> None:
        """End the request's span with all that is known of it; *tenant* is hashed."""
        record, span = self._record, self._span
        if span.is_recording():
            model = family_of(record)
            if model != self._model:
                span.update_name(_name(model))
            told = _described(record, model=model, known=self._model, tenant=tenant)
            if self.provider != names.GEMINI:
                told[names.PROVIDER_NAME] = self.provider
            if self._finish_reasons:
                told[names.RESPONSE_FINISH_REASONS] = self._finish_reasons
            span.set_attributes(_present(told))
            if record.error is not None:
                _fail(span, record.error.code)
        span.end()


def _start(tracer: Tracer, name: str, context: Context, **options: Any) -> Span:
    span = tracer.start_span(name, context=context, **options)
    if span.get_span_context().is_valid:
        return span
    # Where there is no SDK, OpenTelemetry 1.33, which LiteLLM's extra proxy-runtime pins, forgets whose child a span is
    # (seen 2026-11-22).
    return trace.NonRecordingSpan(trace.get_current_span(context).get_span_context())


def parent_context(call: Call) -> Context:
    """Return the context that a request's span belongs in: the program's around us, else the caller's."""
    if isinstance(call.parent, Span) and call.parent.get_span_context().is_valid:
        return trace.set_span_in_context(call.parent, _NOTHING)
    ambient = trace.get_current_span()
    if ambient.get_span_context().is_valid:
        return trace.set_span_in_context(ambient, _NOTHING)
    if not call.traceparent or len(call.traceparent) > _HEADER_CHARACTERS:
        return _NOTHING
    headers = {"traceparent": call.traceparent}
    if state := _valid_state(call.tracestate or ""):
        headers["tracestate"] = state
    return _PROPAGATOR.extract(headers, _NOTHING)


def _valid_state(text: str) -> str:
    """Return a ``tracestate`` that is W3C's, else nothing: OpenTelemetry would log what else a client sends."""
    if len(text) > _HEADER_CHARACTERS:
        return ""
    members = [bare for member in text.split(",") if (bare := member.strip(" \t"))]
    is_valid = len(members) <= _STATE_MEMBERS and all(map(_STATE_MEMBER.fullmatch, members))
    return ",".join(members) if is_valid else ""


def _name(model: str | None) -> str:
    return f"{names.GENERATE_CONTENT} {model}" if model else names.GENERATE_CONTENT


def _described(record: OperationRecord, *, model: str | None, known: str | None, tenant: str) -> dict[str, Any]:
    """Return what the end of a request's span tells.

    What goes without saying stays out, for each attribute costs two microseconds on its way to a collector, and a hit
    takes less than a thousand: counts that are 0, a price of nothing, the outcome and the status of a success. Hashes
    of prompts and users stand in the log, which leads here.
    """
    outcome, family, usage = outcome_of(record), record.family, record.fresh_usage
    plain = (
        (names.OPERATION, record.operation if record.operation != "generation" else None),
        (names.VARIANT, record.model if record.model != family else None),
        (names.TIER, record.resolution),
        (names.ASPECT_RATIO, record.aspect_ratio),
        (names.QUALITY, record.quality),
        (names.STYLE, record.style),
        (names.SAFETY_LEVEL, record.safety_level),
        (names.CACHE, record.cache),
        (names.COST_USD, record.cost_usd),
        (names.SAVINGS_USD, record.savings_usd),
        (names.RETRIES, record.retry_count),
    )
    told: dict[str, Any] = {name: value for name, value in plain if value}
    if model != known:
        told[names.REQUEST_MODEL] = model
    if record.tenant:
        told[names.TENANT] = tenant
    if record.n != 1:
        told[names.REQUEST_CHOICE_COUNT] = record.n
    if record.seed is not None:
        told[names.REQUEST_SEED] = record.seed
    if record.accounts:
        told[names.ACCOUNT] = ",".join(dict.fromkeys(record.accounts))
    if outcome != "ok":
        told[names.OUTCOME] = outcome
        told[names.IMAGES] = record.images
        told[names.STATUS_CODE] = record.status_code
        told[names.ERROR_TYPE] = error_type_of(record)
        told[names.ERROR_REASON] = record.error.reason if record.error else None
        told[names.FAILURE_CODES] = sorted(set(record.failure_codes)) or None
    return told | (_tokens(usage, family) if usage.total_tokens else {})


def _tokens(usage: Usage, family: str | None) -> dict[str, Any]:
    return {
        names.RESPONSE_MODEL: family,
        names.USAGE_INPUT_TOKENS: usage.input_tokens,
        names.USAGE_OUTPUT_TOKENS: usage.output_tokens,
        names.USAGE_TEXT_INPUT_TOKENS: usage.input_text_tokens,
        names.USAGE_TEXT_OUTPUT_TOKENS: usage.output_text_tokens,
        names.USAGE_IMAGE_INPUT_TOKENS: usage.input_image_tokens,
        names.USAGE_IMAGE_OUTPUT_TOKENS: usage.output_image_tokens,
        names.USAGE_REASONING_TOKENS: usage.thinking_tokens,
    }


def _present(attributes: Mapping[str, T | None]) -> dict[str, T]:
    return {name: value for name, value in attributes.items() if value is not None}


def _fail(span: Span, code: str) -> None:
    span.set_attribute(names.ERROR_TYPE, code)
    span.set_status(Status(StatusCode.ERROR, code))


def _split(server: str) -> tuple[str, int]:
    host, separator, port = server.rpartition(":")
    host, number = (host, int(port)) if separator and port.isdigit() else (server, _HTTPS_PORT)
    # An IPv6 address stands in brackets in front of a port only.
    return host.removeprefix("[").removesuffix("]"), number
