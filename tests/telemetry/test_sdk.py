"""A process of one's own, wired by the standard variables; each in a process, for providers are installed once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.support.otlp_receiver import receiving

REQUEST = """
from sfumato.telemetry import configure, shutdown
from sfumato.telemetry.observer import Call, OperationRecord
from sfumato.telemetry.otel import OtelObserver

observer = OtelObserver()
configure()
configure()
observer.begin(OperationRecord(call=Call(request_id="r"), model="gemini-3-pro-image")).end()
"""
WHO = """
from opentelemetry import metrics, trace
print(type(trace.get_tracer_provider()).__name__, type(metrics.get_meter_provider()).__name__)
"""
IDLE = "ProxyTracerProvider _ProxyMeterProvider"
WIRED = "LightTracerProvider MeterProvider"


def run(code: str, timeout_seconds: float = 60, /, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=timeout_seconds,
    )


@pytest.mark.parametrize("ending", ["shutdown(); shutdown()", ""], ids=["shut down", "left to its end"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc", ""])
def test_traces_and_metrics_arrive(protocol: str, ending: str) -> None:
    with receiving() as receiver:
        endpoint = receiver.grpc_url if protocol == "grpc" else receiver.http_url
        run(REQUEST + ending, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        (span,) = receiver.spans
        assert (span.name, span.kind, span.service) == ("generate_content gemini-3-pro-image", "CLIENT", "sfumato")
        counted = {point.name: point.value for point in receiver.points if point.scope == "sfumato"}
        assert counted["gemini_image.requests"] == 1


def test_a_collector_that_never_answers_does_not_keep_the_process() -> None:
    """It takes the connection, and that is all; OpenTelemetry's own handlers wait for it for half a minute."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run(REQUEST, 25, OTEL_EXPORTER_OTLP_ENDPOINT=url)


def test_a_runtime_waits_for_its_first_request_and_not_only_for_a_client() -> None:
    code = """
import asyncio
from sfumato.errors import NoImageError
from sfumato.runtime import Runtime
from sfumato.telemetry.observer import Call

async def main():
    runtime = Runtime(export=True)
    client = runtime.client
    who()
    client.refuse(NoImageError("m"), call=Call(request_id="r"), operation="generation")
    who()
    await runtime.aclose()

def who():
    from opentelemetry import metrics, trace
    print(type(trace.get_tracer_provider()).__name__, type(metrics.get_meter_provider()).__name__)

asyncio.run(main())
"""
    with receiving() as receiver:
        settings = {"GEMINI_API_KEY": "any", "GEMINI_IMAGE_CACHE_BACKEND": "memory"}
        done = run(code, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_url, **settings)
        assert done.stdout.split("\n")[:2] == [IDLE, WIRED]
        assert len(receiver.spans) == 1


def test_one_signal_can_be_asked_for_alone() -> None:
    with receiving() as receiver:
        run(REQUEST, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.http_url}/v1/traces")
        assert len(receiver.spans) == 1
        assert not receiver.points


def test_the_service_s_name_is_the_operator_s() -> None:
    with receiving() as receiver:
        run(REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_url, OTEL_SERVICE_NAME="pictures")
        assert receiver.spans[0].service == "pictures"


def test_a_name_that_is_no_utf_8_is_sent_as_far_as_it_can_be() -> None:
    with receiving() as receiver:
        attributes = {"OTEL_SERVICE_NAME": "m\udcfcller", "OTEL_RESOURCE_ATTRIBUTES": "te\udcffam=\udcff"}
        run(REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_url, **attributes)
        assert receiver.spans[0].service == "m?ller"
        assert receiver.points


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        },
        {"OTEL_METRICS_EXPORTER": "prometheus"},
    ],
    ids=["silent", "blank", "disabled", "none", "prometheus"],
)
def test_nothing_is_installed_that_nobody_asked_for(variables: dict[str, str]) -> None:
    done = run(REQUEST + WHO, **variables)
    assert done.stdout.strip() == IDLE


def test_a_name_without_an_endpoint_is_asking() -> None:
    done = run(WHO + REQUEST + WHO, OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none")
    assert '"name": "generate_content gemini-3-pro-image"' in done.stdout
    assert "LightTracerProvider _ProxyMeterProvider" in done.stdout


def test_providers_of_somebody_else_stay() -> None:
    before = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
theirs = TracerProvider(), MeterProvider()
trace.set_tracer_provider(theirs[0])
metrics.set_meter_provider(theirs[1])
"""
    after = "print((trace.get_tracer_provider(), metrics.get_meter_provider()) == theirs)"
    with receiving() as receiver:
        done = run(before + REQUEST + after, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_url)
        assert done.stdout.strip() == "True"
        # Neither was it tried: OpenTelemetry would complain.
        assert done.stderr == ""
        assert not receiver.bodies


def test_without_the_extra_grpc_is_a_warning_that_says_what_to_do() -> None:
    missing = """
import sys
for module in ("trace_exporter", "metric_exporter"):
    sys.modules[f"opentelemetry.exporter.otlp.proto.grpc.{module}"] = None
"""
    done = run(missing + REQUEST + WHO, OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert done.stdout.strip() == IDLE
    assert "sfumato[otlp-grpc]" in done.stderr
    assert "No traces are sent" in done.stderr


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "'zipkin' is not known here"),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "99999"},
            "(ValueError; look at OTEL_BSP_MAX_EXPORT_BATCH_SIZE). No traces are sent",
        ),
        (
            {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "canary"},
            "(ValueError; look at OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT). No traces are sent",
        ),
        (
            {"OTEL_METRICS_EXEMPLAR_FILTER": "canary"},
            "(ValueError; look at OTEL_METRICS_EXEMPLAR_FILTER). No metrics are sent",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "'http/json' is not known here"),
    ],
)
def test_what_is_misspelled_is_a_warning_and_no_request_fails(variables: dict[str, str], told: str) -> None:
    with receiving() as receiver:
        done = run(REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_url, **variables)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr


def test_wiring_from_many_threads_happens_once() -> None:
    code = """
import threading
from sfumato.telemetry import configure
threads = [threading.Thread(target=configure) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    with receiving() as receiver:
        done = run(code + REQUEST + WHO, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_url)
        assert done.stdout.strip() == WIRED
        # OpenTelemetry complains of a second provider.
        assert done.stderr == ""
        assert len(receiver.spans) == 1


def test_the_package_loads_no_opentelemetry_before_it_is_wanted() -> None:
    code = "import sys, sfumato.telemetry.observer; print('opentelemetry' in sys.modules)"
    assert run(code).stdout.strip() == "False"
