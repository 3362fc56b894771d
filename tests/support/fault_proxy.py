"""A TCP proxy that delays, stalls and cuts, for what a network does to a store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_READ_BYTES = 64 * 1024


class FaultProxy:
    """Forward bytes to *port* on loopback, with faults; it begins without any.

    Args:
        port: Of the server behind.

    Attributes:
        port: Its own, set when it listens.
        delay_seconds: Before each piece is forwarded, in either direction.
        stall_after_bytes: Forward so many bytes of answers from now on, then nothing.
        accepted: Connections so far.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self.port = 0
        self.delay_seconds = 0.0
        self.stall_after_bytes: int | None = None
        self.accepted = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()

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
        try:
            await asyncio.gather(self._pump(reader, back_writer), self._pump(back_reader, writer, answers=True))
        finally:
            self._writers -= {writer, back_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if answers and self.stall_after_bytes is not None:
                    self.stall_after_bytes -= len(data)
                    if self.stall_after_bytes < 0:
                        self.stall()
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


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
