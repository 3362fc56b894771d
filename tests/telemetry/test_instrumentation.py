from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx
import opentelemetry.instrumentation.httpx
import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.telemetry import names
from sfumato.telemetry.instrumentation import instrument
from sfumato.telemetry.observer import Call, OperationRecord, Step
from sfumato.upstream.transport import create_http_client
from tests.support.servers import serving
from tests.telemetry.conftest import Telemetry

KEY = "canary-key-9f3"
pytestmark = pytest.mark.anyio


class Echo(httpx.AsyncBaseTransport):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(200, json={})

    async def aclose(self) -> None:
        self.closed = True


def traced(telemetry: Telemetry, transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    client = httpx.AsyncClient(transport=transport)
    for _ in range(2):
        instrument(client, tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    return client


def post_span(telemetry: Telemetry) -> ReadableSpan:
    (span,) = [span for span in telemetry.exporter.get_finished_spans() if span.name == "POST"]
    return span


async def call(
    telemetry: Telemetry, client: httpx.AsyncClient, url: str = "http://gemini.test/v1", **options: Any
) -> None:
    operation = telemetry.observer.begin(OperationRecord(call=Call(request_id="r")))
    with operation.step(Step(name="attempt")):
        await client.post(url, headers={"x-goog-api-key": KEY, "authorization": f"Bearer {KEY}"}, **options)
    operation.end()


async def test_an_attempt_has_the_http_call_beneath_and_tells_google_its_trace(telemetry: Telemetry) -> None:
    echo = Echo()
    async with traced(telemetry, echo) as client:
        token = context.attach(baggage.set_baggage("secret", "canary"))
        await call(telemetry, client, content=b"body")
        context.detach(token)

    span, attempt = post_span(telemetry), telemetry.spans()[names.ATTEMPT_SPAN]
    assert span.parent
    assert attempt.context
    assert span.context
    assert span.kind is SpanKind.CLIENT
    assert span.parent.span_id == attempt.context.span_id
    (request,) = echo.requests
    ids = format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)
    assert request.headers["traceparent"].split("-")[1:3] == list(ids)
    assert "baggage" not in request.headers
    assert request.headers["x-goog-api-key"] == KEY
    assert request.headers["content-length"] == "4"
    assert await request.aread() == b"body"
    assert echo.closed


async def test_no_key_is_recorded_whatever_the_environment_asks_for(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST", ".*")
    echo = Echo()
    async with traced(telemetry, echo) as client:
        await call(telemetry, client, url=f"http://user:{KEY}@gemini.test/v1?key={KEY}")

    told = post_span(telemetry).to_json()
    # Older releases of OpenTelemetry's record no headers, whoever asks.
    asked = hasattr(opentelemetry.instrumentation.httpx, "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST")
    assert ("http.request.header.user_agent" in told) is asked
    assert KEY not in told
    assert str(echo.requests[0].url) == f"http://user:{KEY}@gemini.test/v1?key={KEY}"


async def test_what_is_no_attempt_is_not_recorded(telemetry: Telemetry) -> None:
    echo = Echo()
    async with traced(telemetry, echo) as client:
        await client.get(f"http://pictures.test/a.png?token={KEY}")
        operation = telemetry.observer.begin(OperationRecord(call=Call(request_id="r")))
        with operation.step(Step(name="cache.lookup")):
            await client.get("http://pictures.test/b.png")
        operation.end()
    assert set(telemetry.spans()) == {"generate_content", names.CACHE_LOOKUP_SPAN}
    assert all("traceparent" not in request.headers for request in echo.requests)


async def test_other_clients_are_left_alone(telemetry: Telemetry) -> None:
    echo = Echo()
    async with traced(telemetry, Echo()), httpx.AsyncClient(transport=echo) as other:
        await call(telemetry, other)
    assert "traceparent" not in echo.requests[0].headers
    assert "POST" not in telemetry.spans()


# In a process of its own: providers are installed once and for all.
UNRECORDED = """
import asyncio, httpx
from opentelemetry import context, propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sfumato.telemetry.instrumentation import instrument
from sfumato.telemetry.spans import ATTEMPT_KEY

seen = []

class Echo(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request):
        seen.append(request)
        return httpx.Response(200)

async def main():
    exporter = InMemorySpanExporter()
    async with httpx.AsyncClient(transport=Echo()) as client:
        instrument(client)
        parent = propagate.extract({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
        context.attach(context.set_value(ATTEMPT_KEY, True, parent))
        await client.post("http://gemini.test/")
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        await client.post("http://gemini.test/")
    (span,) = exporter.get_finished_spans()
    print(seen[0].headers["traceparent"])
    _, trace_id, span_id, _ = seen[1].headers["traceparent"].split("-")
    print((int(trace_id, 16), int(span_id, 16)) == (span.context.trace_id, span.context.span_id))

asyncio.run(main())
"""


def test_where_nobody_records_the_callers_trace_goes_on_and_later_spans_are_made() -> None:
    run = subprocess.run([sys.executable, "-c", UNRECORDED], capture_output=True, check=True, text=True)
    assert run.stdout.split() == ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "True"]


# As of 0.54b1, which LiteLLM pins.
OLDER = """
import opentelemetry.instrumentation.httpx as theirs

class Older(theirs.AsyncOpenTelemetryTransport):
    def __init__(self, transport, tracer_provider=None, request_hook=None, response_hook=None):
        super().__init__(transport, tracer_provider)

theirs.AsyncOpenTelemetryTransport = Older
"""


def test_a_release_that_takes_no_meter_provider_makes_spans_too() -> None:
    run = subprocess.run([sys.executable, "-c", OLDER + UNRECORDED], capture_output=True, check=True, text=True)
    assert run.stdout.split()[-1] == "True"


async def test_our_own_client_over_aiohttp(telemetry: Telemetry) -> None:
    with serving(create_emulator(EmulatorOptions())) as url:
        client = create_http_client(connect_timeout_seconds=5)
        instrument(client, tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
        async with client:
            await call(telemetry, client, url=f"{url}/v1beta/models/none:generateContent", json={})
            with pytest.raises(httpx.HTTPError):
                await call(telemetry, client, url="http://127.0.0.1:1/")
    refused, failed = [span for span in telemetry.exporter.get_finished_spans() if span.name == "POST"]
    assert refused.status.status_code is StatusCode.ERROR
    assert failed.status.status_code is StatusCode.ERROR
    assert all(KEY not in span.to_json() for span in telemetry.exporter.get_finished_spans())
