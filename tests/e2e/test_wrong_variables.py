"""A misspelled variable of OpenTelemetry's is a warning: `sfumato serve` starts, and answers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import serving
from tests.conftest import Emulator

ADMIN = {"authorization": "Bearer admin-key"}


@pytest.mark.parametrize(
    ("variable", "value", "warnings", "metrics"),
    [
        # As platforms inject it, with a propagator that is not installed.
        ("OTEL_PROPAGATORS", "tracecontext,baggage,nonesuch", 1, 200),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "nonesuch", 1, 501),
        ("OTEL_PYTHON_TRACER_PROVIDER", "nonesuch", 2, 200),
        ("OTEL_PYTHON_METER_PROVIDER", "nonesuch", 2, 200),
        # Bytes that are no UTF-8.
        ("OTEL_SERVICE_NAME", "m\udcfcller", 0, 200),
    ],
)
def test_it_starts_and_answers(
    variable: str, value: str, warnings: int, metrics: int, emulator: Emulator, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    environment = {
        "GEMINI_API_KEY": "key",
        "GEMINI_IMAGE_API_BASE": emulator.url,
        "GEMINI_IMAGE_CACHE_BACKEND": "memory",
        "GEMINI_IMAGE_ADMIN_KEY": "admin-key",
        variable: value,
    }
    with serving("serve", "--no-auth", "--port", "0", log=log, env=environment) as (url, _):
        for prompt in ("A first fox", "A second fox"):
            body = {"model": "gemini-3-pro-image", "prompt": prompt}
            assert httpx.post(f"{url}/v1/images/generations", json=body, timeout=60).status_code == 200
        page = httpx.get(f"{url}/gemini-image/metrics", headers=ADMIN, timeout=60)
    assert page.status_code == metrics
    assert ("gemini_image_requests_total" in page.text) == (metrics == 200)
    lines = log.read_text().splitlines()
    told = [line for line in lines if " WARNING sfumato: " in line]
    assert len(told) == warnings, told
    assert all(f"look at {variable})" in line and "nonesuch" not in line for line in told)
    assert sum('"event":"image_request"' in line for line in lines) == 2
