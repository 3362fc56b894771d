"""Every door with marked secrets behind and before it, and everything that comes out of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from sfumato.emulator import SWITCHES
from tests.cli.conftest import serving as running_command
from tests.support import canary
from tests.support.otlp_receiver import Receiver
from tests.support.ports import reserved_port
from tests.support.proxy import proxy_config, running_proxy

MODEL = "gemini-3-pro-image"
_REFUSED_STATUSES = ("401", "402", "403", "404", "429")
# A model is refused by every account before its client is told why; refused keys are refused for all models.
_ALL_REFUSED = (
    ("gemini-3.1-flash-image", "429:1"),
    ("gemini-3.1-flash-lite-image", "429-day:60"),
    ("gemini-2.5-flash-image", "location"),
    ("gemini-2.5-flash-image", "404"),
    (MODEL, "403"),
)
# Enough for every refused key of the list to have others after it.
ACCOUNTS = 24
_REFUSED_KEYS = ("invalid-key", "401", "403", "404", "leaked-key", "location")
_THREADS = 12
# For doors of our own: FastAPI (0.165), and so LiteLLM, reads such headers itself, and OpenTelemetry logs them there.
_TRACE_HEADERS = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": f"Authorization: Bearer {canary.BEARER},{canary.PROMPT}",
    "baggage": f"Authorization: {canary.BEARER},{canary.PROMPT}",
}
_HOST_APP = """
import logging
import os

logging.basicConfig(level=logging.DEBUG)

from fastapi import FastAPI
from sfumato import GeminiImageMiddleware, Runtime
from sfumato.errors import UnauthorizedError
from sfumato.telemetry import configure


async def authorize(request):
    if request.headers.get("authorization") != "Bearer " + os.environ["HOST_KEY"]:
        raise UnauthorizedError("Sign in first.")
    return "host"


configure()
app = FastAPI()
app.add_middleware(GeminiImageMiddleware, authorize=authorize)
"""
# In the proxy's own process: all that is logged there except by LiteLLM's loggers goes to a file of its own.
_PROXY_KEYS = """
import logging
import os

from fastapi import HTTPException
from litellm.proxy._types import UserAPIKeyAuth

handler = logging.FileHandler("others.log")
handler.addFilter(lambda record: not record.name.startswith("LiteLLM"))
for name in ("", "sfumato", "sfumato.requests"):
    logging.getLogger(name).addHandler(handler)
    logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger(name).propagate = False
for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
    logging.getLogger(name).setLevel(os.environ["LITELLM_LOG"])


async def authorize(request, api_key):
    if api_key != os.environ["HOST_KEY"]:
        raise HTTPException(401, "unknown key")
    return UserAPIKeyAuth(api_key=api_key, team_id="canaries")
"""


@dataclass
class Door:
    """A running door, and what came out of it.

    Attributes:
        logs: Files in which nothing marked may stand.
        host_logs: Files of a host that writes what clients send; only what is ours alone may not stand there.
        headers: What every request has beside its own.
        answers: What requests were answered, by their label.
    """

    url: str
    cache: Path
    logs: list[Path]
    host_logs: list[Path] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    answers: dict[str, httpx.Response] = field(default_factory=dict)


def environment(upstream: str, receiver: Receiver, cache: Path) -> dict[str, str]:
    """Return what every door runs with: marked secrets, debug logging, and telemetry that is asked to tell all."""
    return {
        "GEMINI_API_KEYS": ",".join(f"a{number}:{canary.ACCOUNT_KEY}-{number}" for number in range(ACCOUNTS)),
        "GEMINI_IMAGE_API_BASE": upstream,
        "GEMINI_IMAGE_CACHE_DIR": str(cache),
        "GEMINI_IMAGE_ADMIN_KEY": canary.ADMIN_KEY,
        "GEMINI_IMAGE_HASH_SALT": canary.SALT,
        "GEMINI_IMAGE_TIMEOUT_SECONDS": "6",
        "GEMINI_IMAGE_MAX_ATTEMPTS": "2",
        "GEMINI_IMAGE_LOG_LEVEL": "DEBUG",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        # What the instrumentation of httpx would then record, were it shown the headers.
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": ".*",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
        "HOST_KEY": canary.CLIENT_KEY,
    }


@contextmanager
def standalone(upstream: str, receiver: Receiver, directory: Path) -> Iterator[Door]:
    """Run ``sfumato serve``."""
    variables = environment(upstream, receiver, directory / "cache")
    variables["GEMINI_IMAGE_CLIENT_KEYS"] = f"web:{canary.CLIENT_KEY}"
    with running_command("serve", "--port", "0", log=directory / "log", env=variables) as (url, _):
        yield Door(url, directory / "cache", [directory / "log"], headers=_TRACE_HEADERS)


@contextmanager
def in_fastapi(upstream: str, receiver: Receiver, directory: Path) -> Iterator[Door]:
    """Run an app that logs everything at level DEBUG, with the middleware."""
    (directory / "host.py").write_text(_HOST_APP)
    variables = {**os.environ, **environment(upstream, receiver, directory / "cache")}
    command = [sys.executable, "-m", "uvicorn", "host:app", "--log-level", "debug"]
    with (
        reserved_port() as port,
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            [*command, "--port", str(port)], env=variables, cwd=directory, stdout=log, stderr=log
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            _await(lambda: httpx.get(f"{url}/gemini-image/health").status_code == 200)
            yield Door(url, directory / "cache", [directory / "log"])
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def in_litellm(upstream: str, receiver: Receiver, directory: Path) -> Iterator[Door]:
    """Run LiteLLM's own proxy, with config.yaml alone and its usual logging."""
    (directory / "canaries.py").write_text(_PROXY_KEYS)
    config = proxy_config(upstream)
    config["general_settings"]["custom_auth"] = "canaries.authorize"
    config["model_list"] += [_deployment(model) for model in dict(_ALL_REFUSED)]
    variables = environment(upstream, receiver, directory / "cache") | {"LITELLM_LOG": "INFO"}
    with running_proxy(upstream, directory, config=config, environment=variables) as proxy:
        yield Door(proxy.url, directory / "cache", [proxy.log, directory / "others.log"])


@contextmanager
def in_assisted_litellm(upstream: str, receiver: Receiver, directory: Path) -> Iterator[Door]:
    """Run the LiteLLM proxy with the middleware, LiteLLM's debug logging on."""
    (directory / "canaries.py").write_text(_PROXY_KEYS)
    config = proxy_config(upstream)
    config["general_settings"]["custom_auth"] = "canaries.authorize"
    config["model_list"] += [_deployment(model) for model in dict(_ALL_REFUSED)]
    variables = environment(upstream, receiver, directory / "cache") | {"LITELLM_LOG": "DEBUG"}
    with running_proxy(upstream, directory, way="command", config=config, environment=variables) as proxy:
        yield Door(proxy.url, directory / "cache", [directory / "others.log"], [proxy.log])


DOORS = {
    "standalone": standalone,
    "fastapi": in_fastapi,
    "litellm": in_litellm,
    "litellm-assisted": in_assisted_litellm,
}


def _deployment(model: str) -> dict[str, Any]:
    return {"model_name": model, "litellm_params": {"model": f"gemini-image/{model}"}}


def knock(door: Door) -> None:
    """Send through a door: successes, every fault of the emulator and of the hostile upstream, wrong requests."""
    with (
        httpx.Client(base_url=door.url, headers=door.headers, timeout=90) as client,
        ThreadPoolExecutor(_THREADS) as threads,
    ):
        # What is to succeed comes first, by itself: all the rest at once may take its time.
        for asked in (_successes(), {**_failures(), **_wrong()}):
            tasks = {label: threads.submit(_ask, client, body) for label, body in asked.items()}
            door.answers |= {label: task.result() for label, task in tasks.items()}
        # At last, for they take accounts out.
        for label, body in _refused_keys().items():
            door.answers[label] = _ask(client, body)
        for path, key in _own_routes():
            headers = {"Authorization": f"Bearer {key}"}
            door.answers[f"GET {path} {key}"] = client.get(f"/gemini-image/{path}", headers=headers)
        for label in ("success", "repeated"):
            found = door.answers[label].headers.get("x-gemini-image-cache", "")
            assert found in {"hit", "miss", ""}, found


def _own_routes() -> list[tuple[str, str]]:
    paths = ("health", "ready", "metrics", "accounts", "cache", "cache?limit=1000")
    return [(path, key) for path in paths for key in (canary.ADMIN_KEY, canary.BEARER)]


def _successes() -> dict[str, dict[str, Any]]:
    """Return requests that end with pictures, by label; those with a picture are edits."""
    wishes: dict[str, dict[str, Any]] = {"success": _body(""), "repeated": _body(""), "several": _body("", n=2)}
    wishes["success, edit"] = _body("", edit=True)
    wishes["success, mask"] = _body("", edit=True, mask=True)
    wishes["success, url"] = _body("", response_format="url")
    return wishes


def _failures() -> dict[str, dict[str, Any]]:
    """Return a generation and an edit for every fault that lasts."""
    faults = [f"[[emulator:{name}]]" for name in SWITCHES if name not in _REFUSED_KEYS and not name.startswith("429")]
    hostile = (*canary.HOSTILE, *canary.HOSTILE_ANSWERS)
    faults += [f"[[hostile:{kind}]]" for kind in hostile if kind not in _REFUSED_STATUSES]
    failures = {fault: _body(fault) for fault in faults}
    return failures | {f"{fault}, edit": _body(fault, edit=True) for fault in faults}


def _refused_keys() -> dict[str, dict[str, Any]]:
    """Return requests that cool or park accounts: one account each, and at last all of them, model by model."""
    quotas = [name for name in SWITCHES if name.startswith("429")]
    emulated = [f"[[emulator:{name};times=1]]" for name in (*quotas, *_REFUSED_KEYS)]
    faults = [*emulated, *(f"[[hostile:{status}]]" for status in _REFUSED_STATUSES)]
    alone = {fault: _body(fault, model=_ALL_REFUSED[0][0]) for fault in faults}
    for model, name in _ALL_REFUSED:
        alone[f"all {name}"] = _body(f"[[emulator:{name}]]", model=model)
    return alone


def _wrong() -> dict[str, dict[str, Any]]:
    """Return requests that are refused here, with a marker in what is wrong."""
    wrong = {}
    for name in ("size", "quality", "n", "response_format", "safety_level", "seed", "aspect_ratio", "output_format"):
        marked: dict[str, Any] = {name: canary.PROMPT}
        wrong[f"wrong {name}"] = _body("", **marked)
    wrong["wrong picture"] = {**_body("", edit=True), "picture": canary.PICTURE.encode() * 9}
    wrong["wrong key"] = {**_body(""), "key": canary.BEARER}
    wrong["not JSON"] = {**_body(""), "raw": f'{{"model": "{MODEL}", "prompt": "{canary.PROMPT}'.encode()}
    return wrong


def _body(fault: str, *, edit: bool = False, mask: bool = False, **fields: Any) -> dict[str, Any]:
    # LiteLLM drops a style that it does not know from edits' forms.
    sent = {"model": MODEL, "prompt": f"{canary.PROMPT} {fault}{' edited' if edit else ''}", "user": canary.EMAIL}
    if not edit:
        sent["style"] = canary.STYLE
    return {"fields": sent | fields, "edit": edit, "mask": mask}


def _ask(client: httpx.Client, wish: dict[str, Any]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {wish.get('key', canary.CLIENT_KEY)}"}
    if wish["fields"]["prompt"] == f"{canary.PROMPT} ":
        headers["Idempotency-Key"] = f"{canary.IDEMPOTENCY_KEY}-{hash(str(wish))}"
    if not wish["edit"]:
        headers["content-type"] = "application/json"
        content = wish.get("raw") or httpx.Request("POST", "http://x", json=wish["fields"]).content
        return client.post("/v1/images/generations", content=content, headers=headers)
    picture = wish.get("picture") or canary.marked_picture()
    files = [("image", (f"{canary.FILE_NAME}.png", picture, "image/png"))]
    if wish["mask"]:
        files.append(("mask", (f"{canary.FILE_NAME}-mask.png", canary.marked_picture("RGBA"), "image/png")))
    data = {name: str(value) for name, value in wish["fields"].items()}
    return client.post("/v1/images/edits", data=data, files=files, headers=headers)


def _await(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)
