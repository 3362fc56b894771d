from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.cli.conftest import Command, serving
from tests.conftest import Emulator
from tests.support import samples


@pytest.fixture
def upstream(emulator: Emulator, tmp_path: Path) -> dict[str, str]:
    return {
        "GEMINI_API_KEY": "test-key",
        "GEMINI_IMAGE_API_BASE": emulator.url,
        "GEMINI_IMAGE_CACHE_DIR": str(tmp_path / "cache"),
    }


def test_without_a_gemini_key_it_does_not_start(sfumato: Command) -> None:
    ended = sfumato("serve", "--no-auth")

    assert ended.status == 1
    assert "GEMINI_API_KEY" in ended.err
    assert "Traceback" not in ended.err


def test_without_client_keys_it_starts_only_when_told(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")

    ended = sfumato("serve")

    assert ended.status == 1
    assert "GEMINI_IMAGE_CLIENT_KEYS" in ended.err
    assert "--no-auth" in ended.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104  # what it must refuse
def test_without_auth_it_stays_on_loopback(sfumato: Command, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")

    ended = sfumato("serve", "--no-auth", "--host", host)

    assert ended.status == 1
    assert "GEMINI_IMAGE_ALLOW_ANONYMOUS" in ended.err


def test_no_auth_beside_client_keys_is_a_contradiction(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    monkeypatch.setenv("GEMINI_IMAGE_CLIENT_KEYS", "team:secret")

    ended = sfumato("serve", "--no-auth")

    assert ended.status == 1
    assert "contradicts" in ended.err


def test_an_invalid_log_level_is_refused(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")

    ended = sfumato("serve", "--no-auth", "--log-level", "loud")

    assert ended.status == 1
    assert "GEMINI_IMAGE_LOG_LEVEL" in ended.err


def test_anonymous_beyond_loopback_when_the_operator_allows_it(upstream: dict[str, str], tmp_path: Path) -> None:
    env = {**upstream, "GEMINI_IMAGE_ALLOW_ANONYMOUS": "true"}

    with serving("serve", "--port", "0", "--no-auth", "--host", "0.0.0.0", log=tmp_path / "log", env=env) as (url, _):  # noqa: S104
        port = url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/gemini-image/health").status_code == 200


def test_it_serves_pictures_logs_a_json_line_each_and_ends_with_zero(upstream: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving("serve", "--port", "0", "--no-auth", log=log, env=upstream) as (url, process):
        assert httpx.get(f"{url}/gemini-image/health").json() == {"status": "ok"}
        assert httpx.get(f"{url}/gemini-image/ready").status_code == 200
        with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            answer = client.images.generate(model="gemini-3-pro-image-16x9", prompt="A red bicycle")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0

    assert answer.data
    assert samples.from_base64(answer.data[0].b64_json or "").size == (1376, 768)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["event"], line["status_code"]) for line in lines] == [("image_request", 200)]


def test_client_keys_guard_it_and_ctrl_c_ends_it_with_zero(upstream: dict[str, str], tmp_path: Path) -> None:
    env = {**upstream, "GEMINI_IMAGE_CLIENT_KEYS": "team:client-key"}
    with serving("serve", "--port", "0", log=tmp_path / "log", env=env) as (url, process):
        asked = {"model": "gemini-3-pro-image", "prompt": "A red bicycle"}
        path = f"{url}/v1/images/generations"
        assert httpx.post(path, json=asked).status_code == 401
        assert httpx.post(path, json=asked, headers={"x-api-key": "client-key"}, timeout=60).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_several_workers_serve_one_port_and_end_together(upstream: dict[str, str], tmp_path: Path) -> None:
    with serving("serve", "--port", "0", "--no-auth", "--workers", "2", log=tmp_path / "log", env=upstream) as (
        url,
        process,
    ):
        client = httpx.Client(transport=httpx.HTTPTransport(retries=10), timeout=60)
        with client:
            asked = {"model": "gemini-3-pro-image", "prompt": "A red bicycle"}
            assert client.post(f"{url}/v1/images/generations", json=asked).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/gemini-image/health")


def test_a_taken_port_is_told_in_a_sentence(sfumato: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = sfumato("emulator", "--port", str(taken.getsockname()[1]))

    assert ended.status == 1
    assert "Cannot listen on 127.0.0.1" in ended.err


def _queued_seconds(pid: int) -> float:
    """Return how long a process was ready to run while something else ran."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="reads the waits and the resident size from /proc"
)
def test_it_answers_within_two_seconds_and_rests_below_90_mb(
    upstream: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
    seconds: list[float] = []
    resident_kb = 0
    # A machine that is busy with something else says nothing about the command: the command's waits for a processor do
    # not count, and one good start does.
    while len(seconds) < 3 and min(seconds, default=9.0) >= 2:
        began = time.monotonic()
        with serving("serve", "--port", "0", "--no-auth", log=tmp_path / "log", env=upstream) as (url, process):
            assert httpx.get(f"{url}/gemini-image/health").status_code == 200
            seconds.append(time.monotonic() - began - _queued_seconds(process.pid))
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert min(seconds) < 2
    assert resident_kb / 1024 < 90
