from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sfumato.cli.draining import working_seconds
from sfumato.cli.handshakes import stop_handshakes

APP = """
import asyncio, atexit, sys, threading, time
from sfumato.cli.draining import Served
from sfumato.cli.listening import open_socket, run
from sfumato.cli.log_config import log_config

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"] == "/block":
        time.sleep(1000)
    elif scope["path"] == "/export":
        atexit.register(time.sleep, 1000)
    elif scope["path"] == "/thread":
        threading.Thread(target=time.sleep, args=(1000,)).start()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

async def lifespan(receive, send):
    await receive()
    if sys.argv[2] == "fails":
        await send({"type": "lifespan.startup.failed", "message": "not today"})
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if sys.argv[2] == "hangs":
        await asyncio.sleep(1000)
    await send({"type": "lifespan.shutdown.complete"})

def build():
    return Served(app)

if __name__ == "__main__":
    workers = int(sys.argv[1])
    listener = open_socket("127.0.0.1", 0)
    run(build, listener, name="it", log_config=log_config("INFO"), workers=workers, grace_seconds=2)
"""


@contextlib.contextmanager
def running(directory: Path, how: str = "", *, workers: int = 1) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    script = directory / "script.py"
    script.write_text(APP)
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, str(script), str(workers), how], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().rpartition(" ")[2], process
        finally:
            process.kill()


def test_the_last_of_the_grace_period_is_for_closing() -> None:
    assert [working_seconds(grace) for grace in (0, 1, 4, 120)] == [0, 0.75, 3, 118]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("path", ["/block", "/thread", "/export", "/"])
def test_nothing_that_hangs_outlives_the_grace_period(path: str, workers: int, tmp_path: Path) -> None:
    """A stuck event loop, a thread that does not end, an exporter that waits at the end, an app that does not close."""
    with running(tmp_path, "hangs" if path == "/" else "", workers=workers) as (url, process):
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.get(f"{url}{path}", timeout=0.5 if path == "/block" else 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_worker_that_cannot_start_ends_all_with_a_reason(tmp_path: Path) -> None:
    with running(tmp_path, "fails", workers=2) as (_, process):
        assert process.wait(60) == 1

    log = (tmp_path / "log").read_text()
    assert "A worker process did not start" in log
    assert "not today" in log


def test_a_signal_before_it_has_started_ends_it_with_zero(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as (_, process):
        # Its line is out, and the workers are still loading.
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filter is Linux's")
def test_no_handshake_begins_any_more_and_those_before_are_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        before = stack.enter_context(socket.create_connection(listener.getsockname()))
        before.sendall(b"hello")

        stop_handshakes(listener)
        late = stack.enter_context(socket.socket())
        late.settimeout(0)
        late.connect_ex(listener.getsockname())

        # On loopback a handshake is over before connect returns.
        assert select.select([], [late], [], 0) == ([], [], [])
        accepted = stack.enter_context(listener.accept()[0])
        assert accepted.recv(10) == b"hello"
        accepted.sendall(b"hello yourself")
        assert before.recv(20) == b"hello yourself"


def test_a_socket_that_takes_no_filter_is_left_alone() -> None:
    closed = socket.socket()
    closed.close()

    stop_handshakes(closed)
