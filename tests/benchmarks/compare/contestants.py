"""Who is compared: how each is started, and where it takes requests."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.compare.pictures import MODEL, prompt
from tests.benchmarks.hits_servers import DIRECTORY_VARIABLE
from tests.support.proxy import EXAMPLE, MASTER_KEY

ROOT = Path(__file__).parents[3]
_ROUTE = "/v1/images/generations"
_UVICORN = ("-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--no-server-header", "--factory")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a contestant runs: its port, its directory, and the upstream's URL."""

    port: int
    directory: Path
    upstream: str


@dataclasses.dataclass(frozen=True, slots=True)
class Contestant:
    """A server that is measured.

    Attributes:
        title: For tables and charts.
        arguments: Of Python, or a whole command.
        health: A path that answers once it is up.
        environment: Its variables.
        path: What requests are sent to; ``{size}`` stands for a size's name.
        method: Of requests.
        authorization: Of requests.
        program: Run in place of Python.
    """

    title: str
    arguments: Callable[[Place], list[str]]
    health: str
    environment: Callable[[Place], dict[str, str]] = lambda _: {}
    path: str = _ROUTE
    method: str = "POST"
    authorization: str | None = None
    program: str = sys.executable

    def body(self, size: str, number: str) -> str:
        """Return a request's body."""
        if self.method == "GET":
            return ""
        text = prompt(size, number)
        if self.path == _ROUTE:
            return json.dumps({"model": MODEL, "prompt": text})
        return json.dumps({"contents": [{"role": "user", "parts": [{"text": text}]}]})

    def headers(self, *, gzip: bool) -> dict[str, str]:
        """Return the headers of requests."""
        headers = {"authorization": self.authorization} if self.authorization else {}
        return headers | ({"accept-encoding": "gzip, deflate"} if gzip else {})


def _gemini(place: Place) -> dict[str, str]:
    return {
        "GEMINI_API_KEY": "benchmark",
        "GEMINI_IMAGE_API_BASE": place.upstream,
        "GEMINI_IMAGE_CACHE_BACKEND": "noop",
        "PYTHONPATH": str(ROOT),
    }


def _exporting(place: Place) -> dict[str, str]:
    return _gemini(place) | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": place.upstream,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }


def _storing(place: Place) -> dict[str, str]:
    stored = {"GEMINI_IMAGE_CACHE_BACKEND": "filesystem", "GEMINI_IMAGE_CACHE_DIR": str(place.directory / "cache")}
    return _gemini(place) | stored


def _litellm(place: Place) -> dict[str, str]:
    # Without its own map LiteLLM tries to fetch one.
    return _gemini(place) | {"LITELLM_MASTER_KEY": MASTER_KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def _serve(place: Place) -> list[str]:
    return ["-m", "sfumato.cli", "serve", "--no-auth", "--port", str(place.port)]


def _litellms_command(config: Callable[[Place], Mapping[str, Any]]) -> Callable[[Place], list[str]]:
    def build(place: Place) -> list[str]:
        file = place.directory / "config.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(config(place)))
        run = ["-c", "from litellm import run_server; run_server()", "--config", str(file)]
        return [*run, "--host", "127.0.0.1", "--port", str(place.port)]

    return build


def _native_config(place: Place) -> dict[str, Any]:
    params = {"model": f"gemini/{MODEL}", "api_base": f"{place.upstream}/v1beta", "api_key": "benchmark"}
    deployment = {"model_name": MODEL, "litellm_params": params, "model_info": {"mode": "image_generation"}}
    return {"model_list": [deployment], "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"}}


def _provider_config(_: Place) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # LiteLLM's own; it has no types

    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return config


def _late(place: Place) -> list[str]:
    return ["-m", "sfumato.cli", "proxy", "--config", str(EXAMPLE), "--port", str(place.port)]


def _app(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [*_UVICORN, name, "--port", str(place.port)]


def _nginx(place: Place) -> list[str]:
    file = place.directory / "nginx.conf"
    file.write_text(f"""
user root; daemon off; worker_processes 1; pid {place.directory}/nginx.pid; error_log {place.directory}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {place.directory}/body; proxy_temp_path {place.directory}/proxy;
  fastcgi_temp_path {place.directory}/fastcgi; uwsgi_temp_path {place.directory}/uwsgi;
  scgi_temp_path {place.directory}/scgi;
  server {{ listen 127.0.0.1:{place.port}; root {place.directory}/files; default_type application/json; }}
}}
""")
    return ["-c", str(file), "-p", str(place.directory), "-e", str(place.directory / "nginx.log")]


_KEY = f"Bearer {MASTER_KEY}"
_LIVE = "/health/liveliness"
_HEALTH = "/gemini-image/health"
CONTESTANTS = {
    "direct": Contestant(
        "upstream alone",
        lambda place: ["-m", "tests.benchmarks.compare.upstream", str(place.port)],
        "/",
        lambda _: {"PYTHONPATH": str(ROOT)},
        path=f"/v1beta/models/{MODEL}:generateContent",
    ),
    "serve": Contestant("sfumato serve", _serve, _HEALTH, _gemini),
    "exporting": Contestant("sfumato serve, exporting over OTLP", _serve, _HEALTH, _exporting),
    "storing": Contestant("sfumato serve, storing in files", _serve, _HEALTH, _storing),
    "native": Contestant("LiteLLM native", _litellms_command(_native_config), _LIVE, _litellm, authorization=_KEY),
    "provider": Contestant(
        "LiteLLM + provider", _litellms_command(_provider_config), _LIVE, _litellm, authorization=_KEY
    ),
    "late": Contestant("LiteLLM + provider + middleware", _late, _LIVE, _litellm, authorization=_KEY),
    "hits": Contestant("sfumato serve, hits in files", _serve, _HEALTH, _storing),
    "floor": Contestant(
        "Starlette FileResponse",
        _app("tests.benchmarks.hits_servers:create_floor"),
        "/10k",
        lambda place: {DIRECTORY_VARIABLE: str(place.directory / "files"), "PYTHONPATH": str(ROOT)},
        path="/{size}",
    ),
    "nginx": Contestant("nginx", _nginx, "/10k", path="/{size}", method="GET", program="nginx"),
    "probed": Contestant(
        "sfumato serve with a probe in its loop",
        _app("tests.benchmarks.compare.probed:create_app"),
        _HEALTH,
        lambda place: _storing(place) | {"GEMINI_IMAGE_LOG_LEVEL": "ERROR"},
    ),
}
