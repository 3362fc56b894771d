"""aiohttp's connections, but that bodies pass its parser by.

aiohttp's parser copies what it parses, its stream joins what waits, and both keep accounts of each chunk. Here it
parses heads. What follows a head is handed on as the socket gave it (measured 2026-11,
``tests/benchmarks/lifting.py``).

One thing of aiohttp's is used that it does not document: a connector's ``_factory`` makes its connections. Where that
has gone, bodies come aiohttp's own way.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage

from sfumato.upstream.framing import Chunked, Framing, FramingError, Sized

# Reading pauses while more than this waits to be taken.
READY_BYTES = 512 * 1024
_HEAD_END = b"\r\n\r\n"
# An answer may be announced, and its head come in parts; a head has at most 8 KB per line and 128 lines.
_HEADS = 1024


class Connector(aiohttp.TCPConnector):
    """Make such connections."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        kind: type[ResponseHandler] = Connection
        self._factory = functools.partial(kind, loop=asyncio.get_running_loop())


class DirectBody(aiohttp.StreamReader):
    """A body as it comes from the socket. For aiohttp it is one of its own, in which nothing ever waits.

    Args:
        framing: Tells where it ends.
        connection: What it comes over.
    """

    def __init__(self, framing: Framing, connection: Connection) -> None:
        self._running_loop = asyncio.get_running_loop()
        super().__init__(connection, READY_BYTES, loop=self._running_loop)
        self._framing = framing
        self._connection = connection
        self._ready: deque[bytes] = deque()
        self._ready_bytes = 0
        self._reader: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._is_paused = False

    def __aiter__(self) -> Self:  # type: ignore[override]  # aiohttp's iterates over lines
        """Iterate over what comes."""
        return self

    async def __anext__(self) -> bytes:
        """Return what came next.

        Raises:
            aiohttp.ClientError: The connection broke, or what came is no body.
        """
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._framing.ended:
                raise StopAsyncIteration
            self._reader = self._running_loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        part = self._ready.popleft()
        self._ready_bytes -= len(part)
        # Of a body that has ended the connection may be another's by now.
        if self._is_paused and not self._framing.ended and self._ready_bytes <= READY_BYTES // 2:
            self._is_paused = False
            self._connection.resume_body()
        return part

    def receive(self, data: bytes) -> None:
        """Take what came.

        Raises:
            FramingError: It is no body.
        """
        parts = self._framing.take(data)
        self._ready += parts
        self._ready_bytes += sum(map(len, parts))
        if parts or self._framing.ended:
            self._wake()
        if self._ready_bytes > READY_BYTES and not self._is_paused:
            self._is_paused = True
            self._connection.pause_body()

    def set_exception(self, exc: BaseException, *args: Any, **options: Any) -> None:
        """Let the reader have what came, and then an error."""
        super().set_exception(exc, *args, **options)
        if not self._framing.ended:
            self._error = exc
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Connection(ResponseHandler):
    """A connection of aiohttp's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        # Whether a head is expected, the end of what came of it, and whether it has ended where the last data did.
        self._expects_head = False
        self._head = b""
        self._heads = 0
        self._is_at_body = False
        self._begun: list[tuple[RawResponseMessage, aiohttp.StreamReader]] = []
        self._body: DirectBody | None = None
        self._framing: Framing | None = None
        # What its parser takes for the body; it gets nothing of it.
        self._parsed: aiohttp.StreamReader | None = None
        self._pause_allowed: float | None = None

    def set_response_params(self, **options: Any) -> None:
        """Expect the head of an answer."""
        self._expects_head, self._head, self._framing, self._heads = True, b"", None, 0
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """Take the next bytes from the socket."""
        while data and self._expects_head:
            self._heads += 1
            if self._heads > _HEADS and self._exception is None:
                self.set_exception(aiohttp.ClientPayloadError("The answer has no end of heads."))
                self._close_transport()
            if self._exception is not None:
                return
            end = (self._head + data).find(_HEAD_END)
            size = len(data) if end < 0 else end + len(_HEAD_END) - len(self._head)
            self._head = (self._head + data[:size])[1 - len(_HEAD_END) :] if end < 0 else b""
            self._is_at_body = end >= 0
            self._parse(data[:size])
            data = data[size:]
        if self._body is None and self._framing is not None and data:
            # Nobody asked for it, and the parser would take it for the body that it never saw.
            self._close_transport()
        elif self._body is None:
            # Nothing, too, has a meaning there.
            self._parse(data)
        elif data:
            self._receive(self._body, data)

    def feed_data(self, data: Any, size: int = 0) -> None:  # noqa: ARG002  # aiohttp's; it means nothing there
        """Take note of an answer whose head was parsed, until all of the head was."""
        self._begun.append(data)

    def set_exception(self, exc: BaseException, *args: Any, **options: Any) -> None:
        """Tell whoever waits for a head, and who reads the body."""
        super().set_exception(exc, *args, **options)
        if self._body is not None:
            self._body.set_exception(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever reads."""
        body, self._body = self._body, None
        if body is not None:
            error = aiohttp.ClientPayloadError("The connection was closed before the body had ended.")
            error.__cause__ = exc
            body.set_exception(error)
        super().connection_lost(exc)

    def pause_body(self) -> None:
        """Receive nothing for a while, which is no pause of the other side's."""
        if self.transport is not None:
            self.transport.pause_reading()
            self._pause_allowed, self.read_timeout = self.read_timeout, None
            self.start_timeout()

    def resume_body(self) -> None:
        """Receive again."""
        if self.transport is not None and self._body is not None:
            self.read_timeout = self._pause_allowed
            self.start_timeout()
            self.transport.resume_reading()

    def _close_transport(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        begun, self._begun = self._begun, []
        for message, parsed in begun:
            super().feed_data((message, self._choose(message, parsed)), 0)

    def _choose(self, message: RawResponseMessage, parsed: aiohttp.StreamReader) -> aiohttp.StreamReader:
        """Return what the body comes through; whatever is unusual aiohttp answers for."""
        if 100 <= message.code < 200 and message.code != 101:
            return parsed
        self._expects_head = False
        # Some of the body may be parsed: bare line feeds end a head, too.
        if not self._is_at_body or parsed.is_eof() or parsed.total_bytes or message.upgrade:
            return parsed
        codings = [coding.lower() for coding in message.headers.getall("transfer-encoding", ())]
        lengths = message.headers.getall("content-length", ())
        if codings == ["chunked"] and not lengths:
            self._framing = Chunked()
        elif not codings and len(lengths) == 1:
            self._framing = Sized(int(lengths[0]))
        else:
            return parsed
        self._parsed = parsed
        self._body = DirectBody(self._framing, self)
        return self._body

    def _receive(self, body: DirectBody, data: bytes) -> None:
        if self.read_timeout:
            self.start_timeout()
        try:
            body.receive(data)
        except FramingError as error:
            self.set_exception(aiohttp.ClientPayloadError(str(error)))
            self.abort()
            return
        if self._framing is not None and self._framing.ended:
            if self._framing.excess:
                self.force_close()
            parsed, self._parsed, self._body = self._parsed, None, None
            # The connection is as good as new: its next answer gets a parser of its own.
            if parsed is not None:
                parsed.feed_eof()
            body.feed_eof()
