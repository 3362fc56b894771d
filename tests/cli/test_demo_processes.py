from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sfumato.cli.demo_processes import environment, free_port, service
from sfumato.errors import ConfigurationError
from tests.cli.conftest import processes_with

# A server whose child outlives every signal but the last.
STUBBORN = """
import http.server, os, signal, subprocess, sys
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf])
open(sys.argv[2], "w").write(str(child.pid))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed orphan stays until init reaps it.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_service_runs_for_its_block_and_its_children_end_with_it(tmp_path: Path) -> None:
    port, pid_file = free_port(), tmp_path / "pid"
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-c", STUBBORN, str(port), str(pid_file)]

    def interrupted() -> None:
        with service("It", command, ready_url=url, env=os.environ, log=tmp_path / "log", timeout_seconds=120):
            assert httpx.get(url).status_code == 200
            assert alive(int(pid_file.read_text()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    child = int(pid_file.read_text())
    deadline = time.monotonic() + 60
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


class EndingLog(type(Path())):  # type: ignore[misc]  # the system's own kind of path
    """A log at whose closing, when the process has just begun, the demo is told to end."""

    @contextlib.contextmanager
    def open(self, *arguments: Any) -> Iterator[Any]:
        with super().open(*arguments) as file:
            yield file
            signal.raise_signal(signal.SIGINT)


def test_told_to_end_while_a_service_is_being_started_it_ends_it(tmp_path: Path) -> None:
    marker = str(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    with (
        pytest.raises(KeyboardInterrupt),
        service(
            "It",
            ["sleep", "600"],
            ready_url="http://127.0.0.1:1/",
            env={**os.environ, "SFUMATO_DEMO_MARKER": marker},
            log=EndingLog(tmp_path / "log"),
            timeout_seconds=120,
        ),
    ):
        pytest.fail("it never answered")

    assert not processes_with(marker)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_service_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no module named such')"]

    with (
        pytest.raises(ConfigurationError, match=r"It ended with 1\.(.|\n)*no module named such"),
        service("It", command, ready_url="http://127.0.0.1:1/", env={}, log=tmp_path / "log", timeout_seconds=120),
    ):
        pytest.fail("it never ran")


def test_a_service_that_never_answers_is_given_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]

    with (
        pytest.raises(ConfigurationError, match="It did not start in time"),
        service("It", command, ready_url="http://127.0.0.1:1/", env={}, log=tmp_path / "log", timeout_seconds=0.3),
    ):
        pytest.fail("it never answered")


def test_the_environment_holds_nothing_of_ours_but_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GEMINI_API_BASE", "CACHE_DIR", "REDIS_URL", "GEMINI_IMAGE_SAFETY_FLOOR", "MINE"):
        monkeypatch.setenv(name, "here")

    env = environment({"CACHE_DIR": "there"}, keep=("api_key", "api_base"))

    told = {name: env[name] for name in env if env[name] in ("here", "there")}
    assert told == {"GEMINI_API_KEY": "here", "GEMINI_API_BASE": "here", "MINE": "here", "CACHE_DIR": "there"}
