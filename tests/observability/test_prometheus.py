"""Every expression of every dashboard and alert, asked of a real Prometheus that watched a real service."""

from __future__ import annotations

import time

import httpx
import pytest

from sfumato.telemetry.names import INSTRUMENTS, Instrument
from tests.support.prometheus import Panel, Prometheus, measured, panels, rules, substituted
from tests.support.workload import ADMIN_KEY, Service

_PATIENCE_SECONDS = 120.0


def assert_has_data(prometheus: Prometheus, expression: str) -> None:
    """Ask until there is an answer: what was counted last needs another scrape to be seen growing."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not prometheus.query(expression):
        assert time.monotonic() < deadline, f"no data: {expression}"
        time.sleep(0.25)


def test_the_service_is_scraped_with_the_admin_key(prometheus: Prometheus, service: Service) -> None:
    (target,) = prometheus.get("targets?state=active")["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    assert httpx.get(f"{service.url}/gemini-image/metrics").status_code == 401
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    assert httpx.get(f"{service.url}/gemini-image/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize("panel", panels(), ids=str)
def test_every_panel_has_data(prometheus: Prometheus, panel: Panel) -> None:
    assert_has_data(prometheus, substituted(panel.expression, window="1h"))


@pytest.mark.parametrize("alert", rules())
def test_every_alert_measures_something(prometheus: Prometheus, alert: str) -> None:
    for side in measured(rules()[alert]["expr"]):
        assert_has_data(prometheus, side)


def test_prometheus_evaluates_every_rule(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        if all(rule["health"] != "unknown" for rule in found):
            break
        assert time.monotonic() < deadline
        time.sleep(0.25)
    assert {rule["name"]: rule.get("lastError", "") for rule in found} == dict.fromkeys(rules(), "")


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda instrument: instrument.name)
def test_every_metric_arrives_under_its_name_with_its_labels(prometheus: Prometheus, instrument: Instrument) -> None:
    name = instrument.prometheus + ("_count" if instrument.kind == "histogram" else "")
    (series, *_) = prometheus.query(name)
    labels = {label for label in series["metric"] if not label.startswith("otel_scope_")}
    known = {label.replace(".", "_") for label in instrument.labels}
    assert labels - {"__name__", "job", "instance"} <= known
    assert series["metric"]["otel_scope_name"] == "sfumato"


def test_the_parked_account_raises_its_alert(prometheus: Prometheus) -> None:
    firing = {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}
    assert {"SfumatoAccountParked", "SfumatoCacheDamaged"} <= firing
    assert "SfumatoDown" not in firing
