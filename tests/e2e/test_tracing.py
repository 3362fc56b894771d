"""Traces and metrics of `sfumato serve`, as a real OTLP receiver gets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import serving
from tests.conftest import Emulator
from tests.support.otlp_receiver import ReceivedSpan, Receiver, receiving
from tests.support.traced import (
    CASES,
    VARIABLES,
    Case,
    await_metrics,
    await_traces,
    check_case,
    check_metrics,
    run_workload,
    total,
)

KEY = "sk-traced-canary"


@dataclass(frozen=True)
class Traced:
    """What arrived of the workload."""

    receiver: Receiver
    traces: dict[str, str]
    log: Path
    calls: list[dict[str, Any]]

    def spans(self, case: Case) -> list[ReceivedSpan]:
        """Return the spans of one request's trace."""
        return [span for span in self.receiver.spans if span.trace_id == self.traces[case.name]]


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def traced(
    request: pytest.FixtureRequest, emulator_server: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Traced]:
    """Send the workload through the app in a process of its own, and let that end."""
    directory = tmp_path_factory.mktemp("traced")
    emulator_server.clear()
    with receiving() as receiver:
        environment = {
            **VARIABLES,
            "GEMINI_API_KEY": "gemini-canary-key",
            "GEMINI_IMAGE_API_BASE": emulator_server.url,
            "GEMINI_IMAGE_CACHE_DIR": str(directory / "cache"),
            "GEMINI_IMAGE_CLIENT_KEYS": f"web:{KEY}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": request.param,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_url if request.param == "grpc" else receiver.http_url,
            # The most that an operator can ask for.
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
        }
        log = directory / "log"
        with serving("serve", "--port", "0", log=log, env=environment) as (url, _):
            traces = run_workload(url, KEY, door=request.param)
            await_traces(receiver, traces.values())
            await_metrics(receiver)
        yield Traced(receiver, traces, log, emulator_server.calls())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_is_one_trace_with_the_expected_tree(traced: Traced, case: Case) -> None:
    spans = traced.spans(case)
    operation = check_case(case, spans)
    # The client's traceparent is the parent: there is no server span beside or above.
    assert {span.kind for span in spans if span.parent_id not in {other.span_id for other in spans}} == {"CLIENT"}
    assert [span for span in spans if span.kind == "SERVER"] == []
    assert operation.service == "sfumato"
    assert operation.attributes["gen_ai.provider.name"] == "gcp.gemini"


def test_google_is_told_the_trace(traced: Traced) -> None:
    posts = {(span.trace_id, span.span_id) for span in traced.receiver.spans if span.name == "POST"}
    told = {tuple(str(call["headers"].get("traceparent")).split("-")[1:3]) for call in traced.calls}
    assert told == posts


def test_no_trace_is_anything_else_s(traced: Traced) -> None:
    assert {span.trace_id for span in traced.receiver.spans} == set(traced.traces.values())


def test_metrics_arrive(traced: Traced) -> None:
    check_metrics(traced.receiver)


def test_the_log_leads_to_the_trace(traced: Traced) -> None:
    lines = [json.loads(line) for line in traced.log.read_text().splitlines() if line.startswith('{"event"')]
    operations = {(span.trace_id, span.span_id) for span in traced.receiver.spans if span.name.startswith("generate")}
    assert {(line["trace_id"], line["span_id"]) for line in lines} == operations
    assert len(lines) == len(CASES)


@pytest.mark.parametrize("secret", ["canary", "traced", "in.png"])
def test_nothing_of_a_client_s_arrives(traced: Traced, secret: str) -> None:
    assert traced.receiver.bodies
    assert all(secret.encode() not in body for body in traced.receiver.bodies)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_left_is_sent_at_the_end(emulator: Emulator, tmp_path: Path, workers: str) -> None:
    with receiving() as receiver:
        environment = {
            "GEMINI_API_KEY": "key",
            "GEMINI_IMAGE_API_BASE": emulator.url,
            "GEMINI_IMAGE_CACHE_DIR": str(tmp_path / "cache"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_url,
            # By themselves they would be sent after the test.
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
        }
        arguments = ("serve", "--no-auth", "--port", "0", "--workers", workers)
        with serving(*arguments, log=tmp_path / "log", env=environment) as (url, _):
            body = {"model": "gemini-3-pro-image", "prompt": "A last fox"}
            assert httpx.post(f"{url}/v1/images/generations", json=body, timeout=60).status_code == 200
            assert not receiver.spans
        assert {span.name for span in receiver.spans} >= {"generate_content gemini-3-pro-image", "POST"}
        assert total(receiver, "gemini_image.requests") == 1
