"""The newest openai client, from an environment of its own (`tests/run.sh` makes it), against a door."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sfumato.asgi.app import create_app
from sfumato.settings import load_settings
from tests.conftest import Emulator
from tests.support.servers import serving

PROBE = Path(__file__).parent.parent / "support" / "openai_probe.py"


def newest_python() -> str:
    """Return the other environment's interpreter; skipping is for laptops."""
    python = os.environ.get("SFUMATO_NEWEST_OPENAI_PYTHON", "")
    if not python and not os.environ.get("CI"):
        pytest.skip("SFUMATO_NEWEST_OPENAI_PYTHON is not set: ./tests/run.sh sets it")
    assert python, "CI must run this with the newest openai client"
    return python


def test_the_newest_client_works_with_the_app(emulator: Emulator) -> None:
    app = create_app(load_settings(api_key="k", api_base=emulator.url, cache_backend="noop"), anonymous=True)
    python = newest_python()
    with serving(app) as url:
        done = subprocess.run(
            [python, str(PROBE), f"{url}/v1", "any"], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert int(seen["version"].split(".")[0]) >= 3
    assert seen["generation"] == ["1376x768", 2, "ffd8"]
    assert seen["edit"] == ["64x64", 1]
    assert seen["refusal"][:2] == ["BadRequestError", 400]
