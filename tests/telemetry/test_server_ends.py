"""The last spans and metrics of an app that wired OpenTelemetry itself, as docs/telemetry.md shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import Emulator
from tests.support.otlp_receiver import receiving

# uvicorn raises the signal again when the app has closed: nothing runs that was registered for the exit.
APP = """
import uvicorn
from starlette.applications import Starlette
import sfumato.telemetry
from sfumato import GeminiImageMiddleware, Settings

sfumato.telemetry.configure()
app = GeminiImageMiddleware(Starlette(), settings=Settings(client_keys="me:sk-me", cache_backend="memory"))

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

Server(uvicorn.Config(app, port=0, log_level="critical")).run()
"""


def test_they_are_sent_before_uvicorn_ends_the_process(emulator: Emulator, tmp_path: Path) -> None:
    with receiving() as receiver:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GEMINI_"))}
        variables |= {
            "GEMINI_API_KEY": "k",
            "GEMINI_IMAGE_API_BASE": emulator.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_url,
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
        }
        process = subprocess.Popen([sys.executable, "-c", APP], env=variables, cwd=tmp_path, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1/images/generations"
            body = {"model": "gemini-3-pro-image", "prompt": "A fox"}
            assert httpx.post(url, json=body, headers={"authorization": "Bearer sk-me"}, timeout=60).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        assert "generate_content gemini-3-pro-image" in {span.name for span in receiver.spans}
        assert {point.value for point in receiver.points if point.name == "gemini_image.requests"} == {1}
