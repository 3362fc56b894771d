from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, format_span_id, format_trace_id

from sfumato.errors import DeadlineError, ModelNotFoundError, RateLimitedError, SafetyBlockedError
from sfumato.images.request import Usage
from sfumato.telemetry import names
from sfumato.telemetry.observer import Call, Charge, OperationRecord, Step, note_refusal, private_hash
from sfumato.telemetry.otel import OtelObserver
from tests.telemetry.conftest import Telemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def record(**fields: Any) -> OperationRecord:
    call = fields.pop("call", None) or Call(request_id="req_1", door="asgi")
    return OperationRecord(call=call, model="gemini-3-pro-image-4k-16x9", **fields)


def attempt(**fields: Any) -> Step:
    return Step(
        name="attempt",
        attempt=1,
        account="main",
        backend="gemini",
        server="generativelanguage.googleapis.com",
        **fields,
    )


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> str | None:
    return format_span_id(span.parent.span_id) if span.parent else None


def id_of(span: ReadableSpan) -> str:
    assert span.context
    return format_span_id(span.context.span_id)


def test_a_generation_is_one_client_span_with_its_steps_beneath(telemetry: Telemetry) -> None:
    made = record()
    operation = telemetry.observer.begin(made)
    lookup, call, store = Step(name="cache.lookup"), attempt(), Step(name="cache.store")
    with operation.step(lookup):
        lookup.outcome = "miss"
    with operation.step(call):
        call.outcome, call.finish_reason, call.response_id = "ok", "STOP", "resp-1"
    with operation.step(store):
        store.outcome = "stored"
    operation.end()

    spans = telemetry.spans()
    whole = spans["generate_content gemini-3-pro-image"]
    assert whole.kind is SpanKind.CLIENT
    assert whole.parent is None
    assert set(spans) == {
        whole.name,
        names.CACHE_LOOKUP_SPAN,
        names.ATTEMPT_SPAN,
        names.CACHE_STORE_SPAN,
    }
    for name, span in spans.items():
        if span is not whole:
            assert parent_of(span) == id_of(whole), name
            assert span.kind is SpanKind.INTERNAL
    assert attributes(spans[names.CACHE_LOOKUP_SPAN]) == {names.STEP_OUTCOME: "miss"}
    assert attributes(spans[names.ATTEMPT_SPAN]) == {
        names.ATTEMPT: 1,
        names.ACCOUNT: "main",
        names.PROVIDER_NAME: "gcp.gemini",
        names.REQUEST_MODEL: "gemini-3-pro-image",
        names.SERVER_ADDRESS: "generativelanguage.googleapis.com",
        names.SERVER_PORT: 443,
        names.STEP_OUTCOME: "ok",
        names.RESPONSE_ID: "resp-1",
        names.RESPONSE_FINISH_REASONS: ("STOP",),
    }
    assert whole.status.status_code is StatusCode.UNSET


def test_the_operation_s_span_says_what_the_conventions_ask(telemetry: Telemetry) -> None:
    usage = Usage(
        input_tokens=14,
        input_text_tokens=14,
        output_tokens=1457,
        output_text_tokens=337,
        output_image_tokens=1120,
        thinking_tokens=174,
        total_tokens=1471,
    )
    made = record(n=2, seed=7, images=2, fresh_usage=usage, tenant="web", cache="miss", resolution="4K")
    made.family = "gemini-3-pro-image"
    operation = telemetry.observer.begin(made)
    step = attempt()
    with operation.step(step):
        step.finish_reason, step.response_id = "STOP", "resp-1"
    made.accounts = ["main", "main", "spare"]
    operation.end()

    told = attributes(telemetry.span())
    assert (
        told.items()
        >= {
            names.OPERATION_NAME: "generate_content",
            names.PROVIDER_NAME: "gcp.gemini",
            names.REQUEST_MODEL: "gemini-3-pro-image",
            names.RESPONSE_MODEL: "gemini-3-pro-image",
            names.OUTPUT_TYPE: "image",
            names.REQUEST_CHOICE_COUNT: 2,
            names.REQUEST_SEED: 7,
            names.RESPONSE_ID: "resp-1",
            names.RESPONSE_FINISH_REASONS: ("STOP",),
            names.SERVER_ADDRESS: "generativelanguage.googleapis.com",
            names.SERVER_PORT: 443,
            names.USAGE_INPUT_TOKENS: 14,
            names.USAGE_OUTPUT_TOKENS: 1457,
            names.USAGE_TEXT_OUTPUT_TOKENS: 337,
            names.USAGE_IMAGE_OUTPUT_TOKENS: 1120,
            names.USAGE_REASONING_TOKENS: 174,
            names.ACCOUNT: "main,spare",
            names.TENANT: private_hash("web", salt="salt"),
            names.VARIANT: "gemini-3-pro-image-4k-16x9",
        }.items()
    )
    assert told.keys() <= names.ATTRIBUTES.keys()


def test_one_picture_has_no_choice_count_and_a_hit_no_tokens(telemetry: Telemetry) -> None:
    made = record(images=1, cache="hit", usage=Usage(total_tokens=1471, output_tokens=1457))
    telemetry.observer.begin(made).end()
    told = attributes(telemetry.span())
    assert names.REQUEST_CHOICE_COUNT not in told
    assert names.USAGE_OUTPUT_TOKENS not in told
    assert told[names.CACHE] == "hit"
    # What goes without saying costs time on its way to a collector.
    assert not told.keys() & {names.OUTCOME, names.STATUS_CODE, names.RETRIES, names.COST_USD, names.IMAGES}


def test_vertex_is_another_provider_and_a_server_may_have_a_port(telemetry: Telemetry) -> None:
    operation = telemetry.observer.begin(record())
    with operation.step(Step(name="attempt", attempt=1, account="v", backend="vertex", server="127.0.0.1:8123")):
        pass
    operation.end()
    for span in telemetry.spans().values():
        told = attributes(span)
        assert told[names.PROVIDER_NAME] == "gcp.vertex_ai"
        assert (told[names.SERVER_ADDRESS], told[names.SERVER_PORT]) == ("127.0.0.1", 8123)


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("[::1]:8080", ("::1", 8080)),
        ("[::1]", ("::1", 443)),
        ("h.test:8080", ("h.test", 8080)),
        ("h.test", ("h.test", 443)),
    ],
)
def test_a_server_is_an_address_and_a_port(telemetry: Telemetry, server: str, told: tuple[str, int]) -> None:
    operation = telemetry.observer.begin(record())
    with operation.step(Step(name="attempt", server=server)):
        pass
    operation.end()
    found = attributes(telemetry.span())
    assert (found[names.SERVER_ADDRESS], found[names.SERVER_PORT]) == told


@pytest.mark.parametrize(
    "state",
    [
        "a=1",
        "vendor@system=x y,b=2",
        " a=1 ,\t, 4t@c=~ ",
        ",".join(f"k{number}=v" for number in range(32)),
        "k=" + "v" * 256,
    ],
    ids=repr,
)
def test_a_caller_s_tracestate_goes_on(telemetry: Telemetry, state: str, caplog: pytest.LogCaptureFixture) -> None:
    operation = telemetry.observer.begin(record(call=_called(tracestate=state)))
    operation.end()
    context = telemetry.span().context
    assert context
    members = [member.strip(" \t") for member in state.split(",")]
    assert context.trace_state.to_header() == ",".join(member for member in members if member)
    assert not caplog.records


@pytest.mark.parametrize(
    "headers",
    [
        {"tracestate": "Authorization: Bearer canary"},
        {"tracestate": "a=1,canary"},
        {"tracestate": "a=canary=b"},
        {"tracestate": "A=canary"},
        {"tracestate": "a=canary\u00e9"},
        {"tracestate": "canary@b@c=1"},
        {"tracestate": "a=canary\n"},
        {"tracestate": "canary=" + "x" * 8000},
        {"tracestate": ",".join(f"canary{number}=v" for number in range(33))},
        {"traceparent": f"00-{TRACE}-{PARENT}-01-{'canary' * 2000}"},
        {"traceparent": "canary"},
    ],
    ids=lambda headers: str(headers)[:50],
)
def test_what_a_client_wrote_into_a_trace_header_is_not_logged(
    telemetry: Telemetry, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    operation = telemetry.observer.begin(record(call=_called(**headers)))
    operation.end()
    span = telemetry.span()
    assert span.context
    assert not span.context.trace_state
    assert parent_of(span) == (None if "traceparent" in headers else PARENT)
    assert not caplog.records


def _called(**headers: str) -> Call:
    return Call(**{"request_id": "r", "traceparent": f"00-{TRACE}-{PARENT}-01", **headers})


def test_errors_have_a_status_and_a_type_of_few_values(telemetry: Telemetry) -> None:
    error = SafetyBlockedError("Refused: canary-9f3", reason="IMAGE_SAFETY")
    made = record(error=error, status_code=400)
    operation = telemetry.observer.begin(made)
    step = attempt()
    with operation.step(step):
        step.error, step.outcome = error, error.code
    operation.end()

    for span in telemetry.spans().values():
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "IMG_SAFETY_BLOCKED"
        assert attributes(span)[names.ERROR_TYPE] == "IMG_SAFETY_BLOCKED"
        assert attributes(span)[names.ERROR_REASON] == "IMAGE_SAFETY"
        assert "canary" not in span.to_json()
    assert attributes(telemetry.span())[names.OUTCOME] == "error"


def test_retries_are_events(telemetry: Telemetry) -> None:
    operation = telemetry.observer.begin(record())
    operation.retry(RateLimitedError("m", reason="per_minute"), attempt=1, delay_seconds=0.5)
    operation.retry(DeadlineError("m"), attempt=2, delay_seconds=1.0)
    operation.end()
    first, second = telemetry.span().events
    assert first.name == names.RETRY_EVENT
    assert dict(first.attributes or {}) == {
        names.ERROR_TYPE: "IMG_RATE_LIMITED",
        names.ERROR_REASON: "per_minute",
        names.ATTEMPT: 1,
        names.RETRY_DELAY_SECONDS: 0.5,
    }
    assert dict(second.attributes or {})[names.ERROR_TYPE] == "IMG_TIMEOUT"


def test_a_client_that_left_failed_nothing(telemetry: Telemetry) -> None:
    telemetry.observer.begin(record(abandoned=True, status_code=499)).end()
    span = telemetry.span()
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span)[names.ERROR_TYPE] == "499"
    assert attributes(span)[names.OUTCOME] == "abandoned"


def test_a_refusal_has_a_span(telemetry: Telemetry) -> None:
    made = OperationRecord(call=Call(request_id="r", door="litellm"), model=None)
    note_refusal(telemetry.observer, made, ModelNotFoundError("no 'canary-9f3' here"))
    span = telemetry.span()
    assert span.name == "generate_content"
    assert attributes(span)[names.ERROR_TYPE] == "IMG_MODEL_NOT_FOUND"
    assert "canary" not in span.to_json()


def test_the_log_is_told_the_span(telemetry: Telemetry) -> None:
    made = record()
    telemetry.observer.begin(made).end()
    span = telemetry.span()
    assert span.context
    assert (made.trace_id, made.span_id) == (format_trace_id(span.context.trace_id), id_of(span))


def test_the_log_is_told_no_span_that_nobody_records(telemetry: Telemetry) -> None:
    call = Call(request_id="r", traceparent=f"00-{TRACE}-{PARENT}-01")
    for provider in (NoOpTracerProvider(), TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)):
        made = OperationRecord(call=call)
        OtelObserver(tracer_provider=provider, meter_provider=telemetry.meter_provider).begin(made).end()
        assert (made.trace_id, made.span_id) == (TRACE, None)


class TestParents:
    """Whose child a request's span is."""

    def test_the_span_that_the_program_gives_goes_first(self, telemetry: Telemetry) -> None:
        tracer = telemetry.tracer_provider.get_tracer("host")
        given = tracer.start_span("given")
        with tracer.start_as_current_span("ambient"):
            call = Call(request_id="r", parent=given, traceparent=f"00-{TRACE}-{PARENT}-01")
            telemetry.observer.begin(record(call=call)).end()
        given.end()
        assert parent_of(telemetry.span()) == format_span_id(given.get_span_context().span_id)

    def test_then_the_ambient_one(self, telemetry: Telemetry) -> None:
        with telemetry.tracer_provider.get_tracer("host").start_as_current_span("ambient") as ambient:
            call = Call(request_id="r", traceparent=f"00-{TRACE}-{PARENT}-01")
            telemetry.observer.begin(record(call=call)).end()
        assert parent_of(telemetry.span()) == format_span_id(ambient.get_span_context().span_id)

    def test_then_the_caller_s(self, telemetry: Telemetry) -> None:
        call = Call(request_id="r", traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="k=v")
        telemetry.observer.begin(record(call=call)).end()
        span = telemetry.span()
        assert span.context
        assert (format_trace_id(span.context.trace_id), parent_of(span)) == (TRACE, PARENT)
        assert span.context.trace_state.get("k") == "v"

    @pytest.mark.parametrize("parent", [None, "no span", trace.INVALID_SPAN])
    @pytest.mark.parametrize("traceparent", [None, "", "nonsense", "00-0-0-00"])
    def test_what_is_none_is_passed_over(self, telemetry: Telemetry, parent: object, traceparent: str | None) -> None:
        call = Call(request_id="r", parent=parent, traceparent=traceparent)
        telemetry.observer.begin(record(call=call)).end()
        assert telemetry.span().parent is None


def test_steps_on_other_tasks_and_in_other_contexts_belong_to_their_request(telemetry: Telemetry) -> None:
    current: dict[int, str] = {}

    async def work(operation: Any, slot: int, gate: asyncio.Event) -> None:
        with operation.step(attempt(slot=slot)):
            await gate.wait()
            current[slot] = format_span_id(trace.get_current_span().get_span_context().span_id)
        assert not trace.get_current_span().get_span_context().is_valid

    async def main() -> None:
        gate = asyncio.Event()
        token = context.attach(baggage.set_baggage("secret", "canary"))
        operation = telemetry.observer.begin(record())
        context.detach(token)
        tasks = [asyncio.create_task(work(operation, slot, gate), context=contextvars.Context()) for slot in range(3)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        operation.end()

    asyncio.run(main())
    whole = telemetry.span()
    attempts = [span for span in telemetry.exporter.get_finished_spans() if span is not whole]
    assert {attributes(span).get(names.SLOT, 0): id_of(span) for span in attempts} == current
    assert {parent_of(span) for span in attempts} == {id_of(whole)}


def test_a_caller_s_baggage_does_not_enter_an_attempt(telemetry: Telemetry) -> None:
    token = context.attach(baggage.set_baggage("secret", "canary"))
    operation = telemetry.observer.begin(record())
    with operation.step(attempt()):
        assert baggage.get_all() == {}
    context.detach(token)


def test_steps_may_end_after_their_request(telemetry: Telemetry) -> None:
    made = record(resolution="1K")
    operation = telemetry.observer.begin(made)
    operation.end()
    made.charges.append(Charge("main", 0.25))
    with operation.step(Step(name="cache.store")):
        pass
    spans = telemetry.spans()
    assert parent_of(spans[names.CACHE_STORE_SPAN]) == id_of(telemetry.span())
    labels, paid = telemetry.point("gemini_image.cost")
    assert (labels[names.ACCOUNT], paid) == ("main", 0.25)


def test_an_exception_within_a_step_passes_and_its_text_is_not_kept(telemetry: Telemetry) -> None:
    operation = telemetry.observer.begin(record())
    with pytest.raises(ValueError, match="canary"), operation.step(attempt()):
        raise ValueError("canary-9f3")
    operation.end()
    assert all("canary" not in span.to_json() for span in telemetry.spans().values())
