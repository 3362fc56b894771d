"""A Gemini that does nothing but send: answers stand ready as bytes, and a word of the prompt chooses among them.

It takes OTLP exports, too, and forgets them. Run as ``python -m tests.benchmarks.compare.upstream PORT``.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import uvloop

from tests.benchmarks.compare.pictures import SIZES, answer

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_SIZE = re.compile(rb"picture of (\w+)")
_EMPTY = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """A connection, kept alive; one request at a time.

    Args:
        answers: Whole HTTP answers by their size's name.
    """

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._end()
        if end is None:
            return
        request = bytes(self._received[:end])
        del self._received[:end]
        found = _SIZE.search(request)
        assert self._transport is not None
        self._transport.write(self._answers[found[1]] if found else _EMPTY)

    def _end(self) -> int | None:
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return None
        if _CHUNKED.search(self._received, 0, head):
            last = self._received.find(b"\r\n0\r\n\r\n", head)
            return last + 7 if last >= 0 else None
        length = _LENGTH.search(self._received, 0, head)
        end = head + 4 + (int(length[1]) if length else 0)
        return end if len(self._received) >= end else None


def answers() -> dict[bytes, bytes]:
    """Build the HTTP answers of all sizes."""
    built = {}
    for size in SIZES:
        body = answer(size)
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        built[size.encode()] = head.encode() + body
    return built


async def _serve(port: int) -> None:
    ready = answers()
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(ready), "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
