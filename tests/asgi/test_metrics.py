from __future__ import annotations

import multiprocessing
import re
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sfumato.asgi.app import create_app
from sfumato.asgi.metrics import MetricsRoute, count_workers
from sfumato.runtime import Runtime
from sfumato.settings import Settings, load_settings
from sfumato.telemetry import names
from tests.conftest import Emulator
from tests.support.apps import calling

pytestmark = pytest.mark.anyio
PATH = "/gemini-image/metrics"
ADMIN = {"authorization": "Bearer admin-key"}
CLIENT = {"authorization": "Bearer alice-key"}


def settings(emulator: Emulator, **values: Any) -> Settings:
    defaults = {"api_key": "upstream-secret", "api_base": emulator.url, "cache_backend": "memory"}
    return load_settings(**{**defaults, "client_keys": "alice:alice-key", **values})


def value(text: str, metric: str, **labels: str) -> float:
    """Return the sum of a metric's samples with *labels*."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == metric and labels.items() <= sample.labels.items()
    ]
    return sum(found)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the only worker, however these tests are run."""
    monkeypatch.setenv("WEB_CONCURRENCY", "1")


async def test_requests_show_in_prometheus_s_format(emulator: Emulator) -> None:
    async with calling(create_app(settings(emulator, admin_key="admin-key"))) as http:
        before = (await http.get(PATH, headers=ADMIN)).text
        body = {"model": "gemini-3-pro-image-4k-16x9", "prompt": "A counted fox canary-9f3"}
        for _ in range(2):
            assert (await http.post("/v1/images/generations", json=body, headers=CLIENT)).status_code == 200
        assert (
            await http.post("/v1/images/generations", json={"model": body["model"]}, headers=CLIENT)
        ).status_code == 400
        answer = await http.get(PATH, headers=ADMIN)
        # A picture is stored behind its answer.
        while not value(answer.text, "gemini_image_cache_size_bytes"):
            answer = await http.get(PATH, headers=ADMIN)

    after = answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["cache-control"] == "no-store"
    assert "canary" not in after

    def grown(metric: str, **labels: str) -> float:
        return value(after, metric, **labels) - value(before, metric, **labels)

    assert grown("gemini_image_requests_total", gemini_image_outcome="ok") == 2
    assert grown("gemini_image_requests_total", gemini_image_outcome="error") == 1
    assert grown("gemini_image_errors_total", error_type="IMG_MISSING_PROMPT") == 1
    assert grown("gemini_image_images_total", gemini_image_tier="4K", gemini_image_aspect_ratio="16:9") == 2
    assert grown("gemini_image_cache_lookups_total", gemini_image_cache_result="hit") == 1
    assert grown("gemini_image_cost_USD_total") > 0.2
    assert grown("gemini_image_cache_savings_USD_total") == pytest.approx(grown("gemini_image_cost_USD_total"))
    assert grown("gen_ai_client_operation_duration_seconds_count") == 3
    assert value(after, "gemini_image_accounts", gemini_image_account_state="ready") == 1
    assert value(after, "gemini_image_cache_size_bytes") > 0


async def test_every_name_and_help_is_the_table_s(emulator: Emulator) -> None:
    async with calling(create_app(settings(emulator, metrics_public=True))) as http:
        body = {"model": "gemini-3-pro-image", "prompt": "A named fox"}
        await http.post("/v1/images/generations", json=body, headers=CLIENT)
        text = (await http.get(PATH)).text
    told = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    ours = {name: words for name, words in told.items() if name != "target_info"}
    table = {instrument.prometheus: instrument.description for instrument in names.INSTRUMENTS}
    assert ours.items() <= table.items()
    assert len(ours) > 12


async def test_a_scraper_may_ask_for_openmetrics(emulator: Emulator) -> None:
    async with calling(create_app(settings(emulator, metrics_public=True))) as http:
        answer = await http.get(PATH, headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("headers", [{}, CLIENT, {"authorization": "Bearer wrong"}])
async def test_only_administrators_see_it(emulator: Emulator, headers: dict[str, str]) -> None:
    async with calling(create_app(settings(emulator, admin_key="admin-key"))) as http:
        answer = await http.get(PATH, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "gemini_image" not in answer.text.replace("image_error", "")


async def test_without_a_key_it_does_not_exist(emulator: Emulator) -> None:
    async with calling(create_app(settings(emulator))) as http:
        assert (await http.get(PATH, headers=ADMIN)).status_code == 404


async def test_it_may_be_public(emulator: Emulator) -> None:
    async with calling(create_app(settings(emulator, admin_key="admin-key", metrics_public=True))) as http:
        assert (await http.get(PATH)).status_code == 200
        assert (await http.head(PATH)).status_code == 200
        assert (await http.post(PATH)).status_code in (404, 405)


async def test_one_of_several_workers_points_at_otlp(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    async with calling(create_app(settings(emulator, metrics_public=True))) as http:
        answer = await http.get(PATH)
    assert answer.status_code == 501
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in answer.json()["error"]["message"]


async def test_the_extra_is_named_where_it_is_missing(emulator: Emulator) -> None:
    runtime = Runtime(settings(emulator, metrics_public=True))
    route = MetricsRoute(runtime, workers=1, find_exposition=lambda: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(route.respond), base_url="http://app") as http:
        answer = await http.get(PATH)
    assert answer.status_code == 501
    assert "sfumato[prometheus]" in answer.json()["error"]["message"]


async def test_a_wrong_variable_is_no_fault_of_the_route(emulator: Emulator) -> None:
    def find() -> None:
        raise ValueError("Unknown exemplar filter 'canary'.")

    runtime = Runtime(settings(emulator, metrics_public=True))
    route = MetricsRoute(runtime, workers=1, find_exposition=find)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(route.respond), base_url="http://app") as http:
        answer = await http.get(PATH)
    assert answer.status_code == 501
    assert "OTEL_" in answer.json()["error"]["message"]
    assert "canary" not in answer.text


async def test_a_disabled_sdk_is_named(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with calling(create_app(settings(emulator, metrics_public=True))) as http:
        answer = await http.get(PATH)
    assert answer.status_code == 501
    assert "OTEL_SDK_DISABLED" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("told", "workers"), [("1", 1), ("", 2), ("4", 4)])
def test_a_worker_of_gunicorn_is_one_of_several_unless_told(
    monkeypatch: pytest.MonkeyPatch, told: str, workers: int
) -> None:
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    monkeypatch.setenv("WEB_CONCURRENCY", told)
    assert count_workers() == workers


@pytest.mark.parametrize(("told", "workers"), [("1", 1), ("4", 4), ("", 1), ("0", 1), ("many", 1)])
def test_workers_are_told_by_the_environment(monkeypatch: pytest.MonkeyPatch, told: str, workers: int) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", told)
    assert count_workers() == workers


def test_a_process_that_multiprocessing_started_is_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(count_workers) == 2
    assert count_workers() == 1
