"""HTTP by hand, for tests that must know when a request was sent and how its connection ended."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

# What the connection came to, in place of a status.
REFUSED = "refused"
LOST = "lost"


@dataclass
class Answer:
    """How a request ended.

    Attributes:
        status: HTTP status, or `REFUSED` where no connection came about, or `LOST` where it broke before the answer.
        sent_at: When the request's last byte was written, in monotonic seconds; None while it was not.
    """

    status: int | str
    sent_at: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One connection to a server, kept alive until either side ends it; leaving the block ends it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sent_at: float | None = None

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Connect.

        Raises:
            OSError: The server refuses.
        """
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()
        self._sent_at = time.monotonic()

    async def get(self, path: str) -> Answer:
        """Ask and read the answer."""
        return await self.ask(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())

    async def ask(self, request: bytes) -> Answer:
        """Send a request and read the answer."""
        try:
            await self.send(request)
            return await self.read()
        except (OSError, asyncio.IncompleteReadError):
            return Answer(LOST, self._sent_at)

    async def read(self) -> Answer:
        """Read the answer to what was sent.

        Raises:
            OSError, asyncio.IncompleteReadError: The connection ended before.
        """
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split()[1]), self._sent_at, headers, body)

    async def ended(self) -> bool:
        """Wait until the server ends the connection; tell whether it said nothing before."""
        try:
            return await self._reader.read(1) == b""
        except OSError:
            return True

    def close(self) -> None:
        """Leave."""
        self._writer.close()


def image_request(prompt: str, **fields: Any) -> bytes:
    """Return a whole request for a picture."""
    body = json.dumps({"model": "gemini-3-pro-image", "prompt": prompt, **fields}).encode()
    head = (
        "POST /v1/images/generations HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask_once(url: str, request: bytes) -> Answer:
    """Connect, ask, leave."""
    try:
        connection = await Connection.open(url)
    except OSError:
        return Answer(REFUSED)
    with connection:
        return await connection.ask(request)
