from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import REGISTRY, generate_latest

from sfumato.telemetry.exposition import Exposition, process_exposition
from sfumato.telemetry.observer import Call, OperationRecord
from sfumato.telemetry.otel import OtelObserver

MODEL = "gemini-3-pro-image"


def shown(exposition: Exposition) -> list[str]:
    return [
        line for line in exposition.render()[0].decode().splitlines() if line.startswith("gemini_image_requests_total")
    ]


def test_it_shows_our_metrics_beside_whatever_else_shows_them() -> None:
    exposition, reader = Exposition(), InMemoryMetricReader()
    observer = OtelObserver(meter_provider=MeterProvider([reader], shutdown_on_exit=False), exposition=exposition)
    for _ in range(3):
        observer.begin(OperationRecord(call=Call(request_id="r"), model=MODEL)).end()
    (line,) = shown(exposition)
    assert line.endswith(" 3.0")
    assert exposition.render()[1].startswith("text/plain")
    data = reader.get_metrics_data()
    assert data
    names = {metric.name for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert names >= {"gemini_image.requests", "gen_ai.client.operation.duration"}


def test_two_observers_of_one_process_count_together() -> None:
    exposition, model = Exposition(), "gemini-2.5-flash-image"

    def counted() -> float:
        return sum(float(line.rpartition(" ")[2]) for line in shown(exposition) if model in line)

    observers = [OtelObserver(exposition=exposition) for _ in range(2)]
    before = counted()
    for observer in observers:
        observer.begin(OperationRecord(call=Call(request_id="r"), model=model)).end()
    assert counted() == before + 2


def test_whose_metrics_they_are() -> None:
    exposition = Exposition()
    OtelObserver(exposition=exposition)
    assert 'service_name="sfumato"' in exposition.render()[0].decode()


def test_a_host_s_own_page_does_not_show_them() -> None:
    exposition = Exposition()
    OtelObserver(exposition=exposition).begin(OperationRecord(call=Call(request_id="r"), model=MODEL)).end()
    assert shown(exposition)
    assert b"gemini_image" not in generate_latest(REGISTRY)


def test_a_process_has_one() -> None:
    assert process_exposition() is process_exposition() is not None
