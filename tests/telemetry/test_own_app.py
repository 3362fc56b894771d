"""Apps of one's own under uvicorn, which raises the signal again when they have closed: nothing runs at exit then."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import Emulator
from tests.support.otlp_receiver import receiving

PAGE = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
WITH_MIDDLEWARE = """
from starlette.applications import Starlette
import sfumato.telemetry
from sfumato import GeminiImageMiddleware

sfumato.telemetry.configure()
app = GeminiImageMiddleware(Starlette())
"""
(WITH_RUNTIME,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "lifespan" in block]
SERVER = """
import uvicorn

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

Server(uvicorn.Config(app, port=0, log_level="critical")).run()
"""


@pytest.mark.parametrize("app", [WITH_MIDDLEWARE, WITH_RUNTIME], ids=["middleware", "a runtime of its own"])
def test_what_is_left_is_sent_at_the_end(app: str, emulator: Emulator, tmp_path: Path) -> None:
    with receiving() as receiver:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GEMINI_"))}
        variables |= {
            "GEMINI_API_KEY": "k",
            "GEMINI_IMAGE_API_BASE": emulator.url,
            "GEMINI_IMAGE_CACHE_BACKEND": "memory",
            "GEMINI_IMAGE_CLIENT_KEYS": "me:sk-me",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_url,
            # By themselves they would be sent after the test.
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
        }
        command = [sys.executable, "-c", app + SERVER]
        with subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1/images/generations"
                body = {"model": "gemini-3-pro-image", "prompt": "A last fox"}
                headers = {"authorization": "Bearer sk-me"}
                assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == -signal.SIGTERM
            finally:
                process.kill()
        assert "generate_content gemini-3-pro-image" in {span.name for span in receiver.spans}
        assert {point.value for point in receiver.points if point.name == "gemini_image.requests"} == {1}
