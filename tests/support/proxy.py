"""A real LiteLLM proxy process, against the emulator."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]  # LiteLLM's own reader of config.yaml; it has no types
from openai import OpenAI

EXAMPLE = Path(__file__).parents[2] / "examples" / "litellm_proxy" / "config.yaml"
MASTER_KEY = "sk-test-1234x"
START_SECONDS = 90

# Keys with a team, with a floor, and with a floor that is no level. A custom check needs no database.
AUTHENTICATION = """
from litellm.proxy._types import UserAPIKeyAuth

KEYS = {
    "sk-team-a": {"team_id": "team-a"},
    "sk-team-b": {"team_id": "team-b"},
    "sk-alone": {},
    "sk-floor": {"metadata": {"gemini_image_safety_floor": "medium"}},
    "sk-team-floor": {"team_id": "strict", "team_metadata": {"gemini_image_safety_floor": "HIGH"}},
    "sk-wrong-floor": {"metadata": {"gemini_image_safety_floor": "MEDUIM"}},
}

async def authorize(request, api_key):
    if api_key not in KEYS:
        raise PermissionError("unknown key")
    return UserAPIKeyAuth(api_key=api_key, **KEYS[api_key])
"""


@dataclass(frozen=True)
class Proxy:
    """A running LiteLLM proxy."""

    url: str
    log: Path

    def openai(self, key: str = "sk-team-a", **options: Any) -> OpenAI:
        """Return the real client, which repeats nothing by itself."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 60, **options})


@contextmanager
def running_proxy(emulator_url: str, directory: Path) -> Iterator[Proxy]:
    """Run a LiteLLM proxy with the example's config.yaml, and deployments beside it for the odd cases."""
    (directory / "keys.py").write_text(AUTHENTICATION)
    (directory / "config.yaml").write_text(json.dumps(_config(emulator_url)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = ["--config", str(directory / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GEMINI_", "GOOGLE_", "OTEL_"))},
        "LITELLM_MASTER_KEY": MASTER_KEY,
        # Without it LiteLLM tries to fetch its price map.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "GEMINI_API_KEY": "pool-key-1234",
        "GEMINI_IMAGE_API_BASE": emulator_url,
        "GEMINI_IMAGE_CACHE_DIR": str(directory / "cache"),
        "GEMINI_IMAGE_CACHE_SCOPE": "tenant",
        "GEMINI_IMAGE_MAX_ATTEMPTS": "1",
    }
    log = directory / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from litellm import run_server; run_server()", *arguments],
            env=environment,
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _await_start(process, f"http://127.0.0.1:{port}", log)
            yield Proxy(f"http://127.0.0.1:{port}", log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _config(emulator_url: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    deployments: dict[str, dict[str, Any]] = {
        "with-defaults": {"safety_threshold": "MEDIUM", "size": "2048x2048", "n": 2, "response_format": "url"},
        "own-account": {"api_key": "deployment-key-5678", "api_base": emulator_url},
        "base-only": {"api_base": emulator_url},
        "wrong-default": {"safety_threshold": "MEDUIM"},
        "refusing": {},
        "alien": {"model": "gemini-image/dall-e-3"},
    }
    for name, params in deployments.items():
        entry = {"model_name": name, "litellm_params": {"model": "gemini-image/gemini-3-pro-image", **params}}
        config["model_list"].append(entry)
    sibling = "gemini-2.5-flash-image*"
    config["model_list"].append({"model_name": sibling, "litellm_params": {"model": f"gemini-image/{sibling}"}})
    config["litellm_settings"]["content_policy_fallbacks"] = [{"refusing": ["own-account"]}]
    config["general_settings"]["custom_auth"] = "keys.authorize"
    return config


def _await_start(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/liveliness").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"the proxy did not start: {log.read_text()[-2000:]}")
