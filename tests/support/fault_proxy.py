"""A TCP proxy that delays, stalls and cuts, for what a network does to a store or to an API."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Break:
    """How one connection's answer breaks.

    Attributes:
        how: ``close`` ends the connection, ``reset`` resets it, ``stall`` sends no more and leaves it open.
        after_bytes: How much of the answer is forwarded before.
        instead: Sent in place of the answer's first bytes.
    """

    how: Literal["close", "reset", "stall"]
    after_bytes: int = 0
    instead: bytes = b""


class FaultProxy:
    """Forward bytes to *port* on loopback, with faults; it begins without any.

    Args:
        port: Of the server behind.

    Attributes:
        port: Its own, set when it listens.
        delay_seconds: Before each piece is forwarded, in either direction.
        stall_after_bytes: Forward so many bytes of answers from now on, then nothing.
        accepted: Connections so far.
        answered_bytes: What came of answers so far.
        stalled: Answers so far that a break has stalled.
        breaks: For the next answers, in the order in which they begin; one each.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self.port = 0
        self.delay_seconds = 0.0
        self.stall_after_bytes: int | None = None
        self.accepted = 0
        self.answered_bytes = 0
        self.stalled = 0
        self.breaks: deque[Break] = deque()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def connected(self) -> int:
        """Return how many connections there are."""
        return len(self._writers) // 2

    def stall(self) -> None:
        """Take connections and bytes, forward nothing."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again what was held back and all that comes."""
        self.stall_after_bytes = None
        self._flowing.set()

    def reset(self) -> None:
        """Cut every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        self.accepted += 1
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back_writer}
        left = asyncio.Event()
        try:
            await asyncio.gather(self._ask(reader, back_writer, left), self._answer(back_reader, writer, left))
        finally:
            self._writers -= {writer, back_writer}

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                await self._forward(data, writer)
        left.set()
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                self.answered_bytes += len(data)
                if self.breaks:
                    fault = self.breaks.popleft()
                    await _break(fault, data, reader, writer)
                    if fault.how == "stall":
                        self.stalled += 1
                        await left.wait()
                    break
                if self.stall_after_bytes is not None:
                    self.stall_after_bytes -= len(data)
                    if self.stall_after_bytes < 0:
                        self.stall()
                await self._forward(data, writer)
        writer.transport.abort()

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        await self._flowing.wait()
        writer.write(data)
        await writer.drain()


async def _break(fault: Break, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the beginning of an answer; return when nothing more is to be sent and the connection may end."""
    writer.transport.set_write_buffer_limits(0)
    while len(data) < fault.after_bytes and (more := await reader.read(_READ_BYTES)):
        data += more
    writer.write(fault.instead + data[: fault.after_bytes])
    await writer.drain()
    if fault.how == "reset":
        plug: socket.socket = writer.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def fault_proxy(port: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of *port*."""
    proxy = FaultProxy(port)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.resume()
        proxy.reset()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
