"""aiohttp's connections, but that bodies pass its parser by.

aiohttp's parser copies what it parses, its stream joins what waits, and both keep accounts of each chunk. Here it
parses heads. What follows a head is handed on as the socket gave it (measured 2026-11,
``tests/benchmarks/lifting.py``).

Little of what is used here does aiohttp document: neither a connector's ``_factory``, which makes its connections, nor
the class of these, with ``set_response_params``, ``data_received``, ``feed_data``, ``read_timeout``, ``start_timeout``
and ``force_close``, nor a stream's ``total_bytes``. So each connector first tries one answer on a connection without a
socket. Where that does not come as it should, and where the class cannot be imported, bodies come aiohttp's own way.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from sfumato.upstream.direct_body import DirectBody
from sfumato.upstream.framing import Chunked, Framing, FramingError, Sized

if TYPE_CHECKING:
    from aiohttp.http import RawResponseMessage

_HEAD_END = b"\r\n\r\n"
# An answer may be announced, and its head come in parts; a head has at most 8 KB per line and 128 lines.
_HEADS = 1024
# Without its last byte.
_TRIAL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na"
_log = logging.getLogger("sfumato")


class Connector(aiohttp.TCPConnector):
    """Make such connections, where this aiohttp has what they need."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        kind: type[ResponseHandler] = Connection
        loop = asyncio.get_running_loop()
        if hasattr(self, "_factory") and _is_understood(loop):
            self._factory = functools.partial(kind, loop=loop)
        else:
            _log.info("aiohttp %s is not known here: bodies come its own way, which costs time.", aiohttp.__version__)


def _is_understood(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether an answer comes through a connection of this aiohttp's as it should."""
    try:
        return Connection(loop).passes_trial()
    except Exception:  # noqa: BLE001  # whatever an aiohttp to come lacks or does otherwise
        return False


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
            if self._heads > _HEADS and self.exception() is None:
                self.set_exception(aiohttp.ClientPayloadError("The answer has no end of heads."))
                self._close_transport()
            if self.exception() is not None:
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

    def passes_trial(self) -> bool:
        """Tell whether an answer comes through, of a connection without a socket; it is of no other use."""
        self.set_response_params(read_timeout=60.0, auto_decompress=False)
        self.data_received(_TRIAL)
        body = self._body
        # The first part came, whoever asked has the head, and the connection stays in use until the end.
        begun = body is not None and body.ready_bytes == 1 and len(self) == 1 and self.should_close
        self.data_received(b"b")
        ended = self._body is None and self.read_timeout == 60.0 and self.exception() is None
        self._close_transport()
        return begun and ended and self.should_close

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
        """Have done with the other side at once: what it still says is not heard."""
        self.force_close()
        if self.transport is not None:
            self.transport.abort()

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
            self._close_transport()
            return
        if self._framing is not None and self._framing.ended:
            if self._framing.excess:
                self.force_close()
            parsed, self._parsed, self._body = self._parsed, None, None
            # The connection is as good as new: its next answer gets a parser of its own.
            if parsed is not None:
                parsed.feed_eof()
            body.feed_eof()
