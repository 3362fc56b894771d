"""A service under load, watched by a real Prometheus with the example's configuration."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support.prometheus import EXAMPLES, Prometheus, require_prometheus, running_prometheus
from tests.support.workload import ADMIN_KEY, Service, run_round, running_service

_PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A real ``sfumato serve``."""
    require_prometheus()
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen the service before, during and after everything that may happen."""
    directory = tmp_path_factory.mktemp("prometheus")
    shutil.copy(EXAMPLES / "alerts.yml", directory)
    (directory / "admin-key").write_text(ADMIN_KEY)
    with running_prometheus(_config(service), directory) as running:
        run_round(service, "one")
        _await(running, 'gemini_image_requests_total{gemini_image_outcome="partial"}')
        seen = running.query("sum(gemini_image_requests_total)")[0]["value"][1]
        run_round(service, "two")
        _await(running, f"sum(gemini_image_requests_total) > {seen}")
        yield running


def _config(service: Service) -> dict[str, Any]:
    """Return the example's configuration for this service, scraped every second."""
    config: dict[str, Any] = msgspec.yaml.decode((EXAMPLES / "prometheus.yml").read_bytes())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (scraped,) = config["scrape_configs"]
    scraped["static_configs"][0]["targets"] = [service.url.removeprefix("http://")]
    return config


def _await(prometheus: Prometheus, expression: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not prometheus.query(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.1)
