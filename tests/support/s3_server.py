"""A real S3 server on loopback (moto), in a thread, ended by whoever started it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "pictures"


class S3Server:
    """A running server with one empty bucket."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._running = True
        host, port = self._server.get_host_and_port()
        self.port = port
        self.url = f"http://{host}:{port}"
        self.clear()

    def clear(self) -> None:
        """Forget everything and make the bucket anew."""
        httpx.post(f"{self.url}/moto-api/reset", timeout=60).raise_for_status()
        httpx.put(f"{self.url}/{BUCKET}", timeout=60).raise_for_status()

    def stop(self) -> None:
        """Go away: connections are refused from now on."""
        if self._running:
            self._running = False
            self._server.stop()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point the standard variables of AWS at this server."""
        use_endpoint(self.url, monkeypatch)


def use_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the standard variables of AWS at an endpoint."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@contextmanager
def s3_serving() -> Iterator[S3Server]:
    """Run a server for as long as the context lasts."""
    server = S3Server()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def silence_serving() -> Iterator[str]:
    """Take every connection and never answer; yield the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(listener.accept()[0])

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # Closing alone does not wake a thread that waits in accept.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)
        for connection in taken:
            connection.close()
