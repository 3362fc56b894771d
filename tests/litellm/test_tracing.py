"""Traces and metrics of a real LiteLLM proxy with `callbacks: ["otel"]`, as a real OTLP receiver gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import Emulator
from tests.support.otlp_receiver import ReceivedSpan, Receiver, receiving
from tests.support.proxy import MASTER_KEY, proxy_config, running_proxy
from tests.support.traced import (
    CASES,
    OPERATION,
    VARIABLES,
    Case,
    await_metrics,
    await_traces,
    check_case,
    check_metrics,
    run_workload,
)

LITELLM_SPAN = "Received Proxy Server Request"
FASTAPI_SPAN = "fastapi.endpoint"


@dataclass(frozen=True)
class Traced:
    """What arrived of the workload."""

    receiver: Receiver
    traces: dict[str, str]
    callbacks: bool

    def spans(self, case: Case) -> list[ReceivedSpan]:
        """Return the spans of one request's trace."""
        return [span for span in self.receiver.spans if span.trace_id == self.traces[case.name]]


@pytest.fixture(scope="module", params=["http/protobuf", "grpc", "config.yaml alone"])
def traced(
    request: pytest.FixtureRequest, emulator_server: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Traced]:
    """Send the workload through a proxy: with LiteLLM's own traces over HTTP and gRPC, and without them."""
    callbacks = request.param != "config.yaml alone"
    with receiving() as receiver:
        grpc = request.param == "grpc"
        environment = {
            **VARIABLES,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if grpc else "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_url if grpc else receiver.http_url,
            # LiteLLM's own names of the same.
            "OTEL_EXPORTER": "otlp_grpc" if grpc else "otlp_http",
            "OTEL_ENDPOINT": receiver.grpc_url if grpc else receiver.http_url,
        }
        config = _config(emulator_server.url, callbacks=callbacks)
        directory = tmp_path_factory.mktemp("traced")
        with running_proxy(emulator_server.url, directory, config=config, environment=environment) as proxy:
            traces = run_workload(proxy.url, MASTER_KEY, door=request.param)
            await_traces(receiver, traces.values())
            await_metrics(receiver)
            if callbacks:
                _await_parents(receiver, traces.values(), LITELLM_SPAN)
            else:
                _await_parents(receiver, (traces[case.name] for case in CASES[1:]), FASTAPI_SPAN)
        yield Traced(receiver, traces, callbacks)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_is_one_trace_with_the_expected_tree(traced: Traced, case: Case) -> None:
    spans = traced.spans(case)
    operation = check_case(case, spans)
    parents = {span.span_id: span for span in spans}
    if traced.callbacks:
        assert parents[operation.parent_id].name == LITELLM_SPAN
    elif case is not CASES[0]:
        # FastAPI traces by itself as soon as somebody installed a provider: from the second request on.
        assert parents[operation.parent_id].name == FASTAPI_SPAN


def test_every_operation_belongs_to_a_request(traced: Traced) -> None:
    operations = [span.trace_id for span in traced.receiver.spans if span.name == OPERATION]
    assert sorted(operations) == sorted(traced.traces.values())


def test_our_steps_are_in_no_other_trace(traced: Traced) -> None:
    ours = [span for span in traced.receiver.spans if span.scope in ("sfumato", "opentelemetry.instrumentation.httpx")]
    assert {span.trace_id for span in ours} == set(traced.traces.values())


def test_metrics_arrive(traced: Traced) -> None:
    check_metrics(traced.receiver)


def _config(emulator_url: str, *, callbacks: bool) -> dict[str, Any]:
    config = proxy_config(emulator_url)
    # With an authentication of one's own LiteLLM 1.106.2 opens no span of its own before a request fails.
    del config["general_settings"]["custom_auth"]
    # Each attempt of LiteLLM's router is an operation of ours.
    config["router_settings"]["num_retries"] = 0
    if callbacks:
        config["litellm_settings"]["callbacks"] = ["otel"]
    return config


def _await_parents(receiver: Receiver, traces: Iterable[str], name: str) -> None:
    # They end after ours, and may be sent later.
    wanted = set(traces)
    receiver.await_spans(lambda spans: wanted <= {span.trace_id for span in spans if span.name == name})
