"""The body of an answer as the socket gave it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol, Self, cast

import aiohttp

from sfumato.upstream.framing import Framing

# Reading pauses while more than this waits to be taken.
READY_BYTES = 512 * 1024


class Pausable(Protocol):
    """What a body comes over."""

    def pause_body(self) -> None:
        """Receive nothing for a while."""

    def resume_body(self) -> None:
        """Receive again."""


class DirectBody(aiohttp.StreamReader):
    """A body as it comes from the socket. For aiohttp it is one of its own, in which nothing ever waits.

    Args:
        framing: Tells where it ends.
        connection: What it comes over.

    Attributes:
        ready_bytes: How much waits to be taken.
    """

    def __init__(self, framing: Framing, connection: Pausable) -> None:
        self._running_loop = asyncio.get_running_loop()
        super().__init__(cast("Any", connection), READY_BYTES, loop=self._running_loop)
        self._framing = framing
        self._connection = connection
        self._ready: deque[bytes] = deque()
        self.ready_bytes = 0
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
        self.ready_bytes -= len(part)
        if self.ready_bytes <= READY_BYTES // 2:
            self._resume()
        return part

    def receive(self, data: bytes) -> None:
        """Take what came.

        Raises:
            FramingError: It is no body.
        """
        parts = self._framing.take(data)
        self._ready += parts
        self.ready_bytes += sum(map(len, parts))
        if parts or self._framing.ended:
            self._wake()
        if self._framing.ended:
            # The connection may be another's next, and must not come to it paused.
            self._resume()
        elif self.ready_bytes > READY_BYTES and not self._is_paused:
            self._is_paused = True
            self._connection.pause_body()

    def set_exception(self, exc: BaseException, *args: Any, **options: Any) -> None:
        """Let the reader have what came, and then an error."""
        super().set_exception(exc, *args, **options)
        if not self._framing.ended:
            self._error = exc
            self._wake()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._connection.resume_body()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
