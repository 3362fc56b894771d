"""A real LiteLLM proxy process, against the emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import yaml  # type: ignore[import-untyped]  # LiteLLM's own reader of config.yaml; it has no types
from openai import OpenAI

from tests.support.ports import reserved_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "litellm_proxy" / "config.yaml"
MASTER_KEY = "sk-test-1234x"
START_SECONDS = 600

# Keys with a team, with a floor, and with a floor that is no level. A custom check needs no database.
AUTHENTICATION = """
import json
import os

from litellm.integrations.custom_logger import CustomLogger
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

# An operator's own logger, which sees what LiteLLM holds of every answer.
class Watcher(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        prompt = kwargs["standard_logging_object"]["messages"]
        texts = [item.b64_json or item.url for item in response_obj.data]
        with open("seen.jsonl", "a") as seen:
            seen.write(json.dumps({"prompt": str(prompt), "texts": texts, "worker": os.getpid()}) + chr(10))

watcher = Watcher()
"""


@dataclass(frozen=True)
class Proxy:
    """A running LiteLLM proxy."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def seen(self, prompt: str) -> list[str]:
        """Return what the operator's logger was given as the pictures of *prompt*, once it was told."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            path = self.log.with_name("seen.jsonl")
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            found = [row["texts"] for row in rows if prompt in row["prompt"]]
            if found:
                texts: list[str] = found[-1]
                return texts
            time.sleep(0.05)
        raise AssertionError(f"nothing was logged of {prompt!r}")

    def openai(self, key: str = "sk-team-a", **options: Any) -> OpenAI:
        """Return the real client, which repeats nothing by itself."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 60, **options})


Way = Literal["plain", "command", "uvicorn", "hook"]
"""How a proxy is run: LiteLLM's own command, or one of the three ways with the middleware in front."""


@contextmanager
def running_proxy(
    emulator_url: str,
    directory: Path,
    *,
    way: Way = "plain",
    workers: int = 1,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """Run a LiteLLM proxy with the example's config.yaml, and deployments beside it for the odd cases.

    Args:
        emulator_url: Where Gemini is.
        directory: Where it may write.
        way: How to run it.
        workers: Processes.
        config: In place of the usual configuration; see `proxy_config`.
        environment: Variables beside the usual ones.
    """
    (directory / "keys.py").write_text(AUTHENTICATION)
    path = directory / "config.yaml"
    path.write_text(json.dumps(config or proxy_config(emulator_url)))
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GEMINI_", "GOOGLE_", "OTEL_"))},
        "LITELLM_MASTER_KEY": MASTER_KEY,
        # Without it LiteLLM tries to fetch its price map.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "GEMINI_API_KEY": "pool-key-1234",
        "GEMINI_IMAGE_API_BASE": emulator_url,
        "GEMINI_IMAGE_CACHE_DIR": str(directory / "cache"),
        "GEMINI_IMAGE_CACHE_SCOPE": "tenant",
        "GEMINI_IMAGE_MAX_ATTEMPTS": "1",
        **({"CONFIG_FILE_PATH": str(path)} if way == "uvicorn" else {}),
        **({"LITELLM_WORKER_STARTUP_HOOKS": "sfumato.litellm:install"} if way == "hook" else {}),
        **(environment or {}),
    }
    log = directory / "log.txt"
    with log.open("wb") as output, reserved_port() as port:
        process = subprocess.Popen(
            [sys.executable, *_arguments(way, path, port, workers)],
            env=variables,
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _await_start(process, f"http://127.0.0.1:{port}", log)
            yield Proxy(f"http://127.0.0.1:{port}", log, process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _arguments(way: Way, config: Path, port: int, workers: int) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(port)]
    if way == "command":
        return ["-m", "sfumato.cli", "proxy", "--config", str(config), *address, "--workers", str(workers)]
    if way == "uvicorn":
        patient = ["--timeout-worker-healthcheck", "60"]
        return ["-m", "uvicorn", "sfumato.litellm.proxy:app", *address, "--workers", str(workers), *patient]
    run = ["-c", "from litellm import run_server; run_server()", "--config", str(config), *address]
    return [*run, "--num_workers", str(workers), "--timeout_worker_healthcheck", "60"] if workers > 1 else run


def proxy_config(emulator_url: str) -> dict[str, Any]:
    """Return the example's configuration with deployments for the odd cases."""
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
    own = {"model": "gemini-image/*", "api_key": "deployment-key-5678", "api_base": emulator_url}
    config["model_list"].append({"model_name": "own-*", "litellm_params": own})
    sibling = "gemini-2.5-flash-image*"
    config["model_list"].append({"model_name": sibling, "litellm_params": {"model": f"gemini-image/{sibling}"}})
    config["litellm_settings"]["content_policy_fallbacks"] = [{"refusing": ["own-account"]}]
    config["general_settings"]["custom_auth"] = "keys.authorize"
    return config


def assisted_config(emulator_url: str, other_url: str) -> dict[str, Any]:
    """Return a configuration for the middleware: pictures bound late or not, another provider, fallbacks, a logger.

    Args:
        emulator_url: Where Gemini is.
        other_url: Where another provider's pictures come from.
    """
    config = proxy_config(emulator_url)
    # The logger of the operator's own would keep pictures from being bound late.
    config["litellm_settings"]["callbacks"] = ["keys.watcher"]
    for entry in config["model_list"]:
        entry.setdefault("model_info", {})["late_binding"] = True
    ours = "gemini-image/gemini-3-pro-image"
    other = {"model": "openai/gpt-image-1", "api_key": "other-key", "api_base": f"{other_url}/v1"}
    groups: dict[str, dict[str, Any]] = {
        "watched": {"model": ours},
        # What an account of its own meets leaves the pool's accounts alone.
        "owned*": {"model": f"{ours}*", "api_key": "deployment-key-5678", "late_binding": True},
        "early": {"model": ours, "late_binding": False},
        "late": {"model": ours, "late_binding": True},
        "muddled": {"model": ours, "late_binding": "maybe"},
        "other": other,
        "limited": {"model": ours, "api_key": "deployment-key-5678", "late_binding": True},
        "doomed": {"model": ours, "late_binding": True},
    }
    config["model_list"] += [{"model_name": name, "litellm_params": params} for name, params in groups.items()]
    config["litellm_settings"]["fallbacks"] = [{"limited": ["other"]}, {"doomed": ["early"]}]
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
