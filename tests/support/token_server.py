"""Google's token server on loopback, and a service account's key that is sent there."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@dataclass
class TokenServer:
    """A running token server.

    Attributes:
        asked: How many tokens were asked for.
        answer: Status and JSON of the next answers; None gives a token of an hour, ``token-1`` and so on.
        open: While cleared, answers wait.
        arrived: Set when a call has arrived.
    """

    url: str = ""
    asked: int = 0
    answer: tuple[int, dict[str, Any]] | None = None
    open: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def key_file(self, directory: Path, **fields: Any) -> Path:
        """Write a service account's key whose tokens come from here."""
        key = {
            "type": "service_account",
            "project_id": "demo",
            "private_key_id": "1",
            "private_key": _private_key(),
            "client_email": "robot@demo.iam.gserviceaccount.com",
            "token_uri": self.url,
            **fields,
        }
        path = directory / "key.json"
        path.write_text(json.dumps(key))
        return path


@contextmanager
def token_server() -> Iterator[TokenServer]:
    """Serve tokens on a free port."""
    served = TokenServer()
    served.open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            served.asked += 1
            number = served.asked
            served.arrived.set()
            served.open.wait(60)
            token = {"access_token": f"token-{number}", "expires_in": 3600, "token_type": "Bearer"}
            status, body = served.answer or (200, token)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/token"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.open.set()
        server.shutdown()
        thread.join()
        server.server_close()


@functools.cache
def _private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
