"""How an answer travels: whole, late, in events, stalled, truncated or broken off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sfumato.emulator.faults import Fault

JSON_TYPE = "application/json; charset=UTF-8"
EVENT_STREAM_TYPE = "text/event-stream"
HTML_TYPE = "text/html; charset=UTF-8"
_PIECE_BYTES = 64 * 1024
_CLIENT_LEFT = 499


class Delivery(Response):
    """A response that obeys the faults of the wire; without one it is chunked, as Google's answers are.

    Args:
        chunks: The body, in the units it is flushed in (the events of a stream).
        faults: The faults in force.
        latency_seconds: Waited in equal shares before the chunks.
        sleep: Waits for a number of seconds.
        report: Told the status when it goes out, or 499 when the client leaves during a wait.
    """

    def __init__(
        self,
        status_code: int,
        content_type: str,
        chunks: Sequence[bytes],
        *,
        faults: Sequence[Fault] = (),
        latency_seconds: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        report: Callable[[int], None] = lambda _: None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = status_code
        self.background = None
        self._chunks = chunks
        self._faults = {fault.name: fault for fault in reversed(faults)}
        self._latency_seconds = latency_seconds
        self._sleep = sleep
        self._report = report
        cut = {"content-length": str(sum(map(len, chunks)))} if "truncated" in self._faults else {}
        self.init_headers({"content-type": content_type, **(headers or {}), **cut})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, or as much of it as the faults let through.

        Raises:
            ConnectionResetError: The fault ``reset``; the server drops the connection.
        """
        del scope
        try:
            await self._deliver(receive, send)
        except _ClientLeftError:
            self._report(_CLIENT_LEFT)
        except anyio.get_cancelled_exc_class():
            self._report(_CLIENT_LEFT)
            raise

    async def _deliver(self, receive: Receive, send: Send) -> None:
        if "stall-before" in self._faults:
            await self._pause(self._faults["stall-before"].seconds, receive)
        share = self._latency_seconds / max(1, len(self._chunks))
        started = False
        for chunk, broken in self._cut():
            await self._pause(share, receive)
            if not started:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                self._report(self.status_code)
                started = True
            for start in range(0, len(chunk), _PIECE_BYTES):
                piece = chunk[start : start + _PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if broken and "stall" in self._faults:
                await self._pause(self._faults["stall"].seconds, receive)
            elif broken and "reset" in self._faults:
                raise ConnectionResetError("the emulator broke the connection on purpose")
            elif broken:
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _cut(self) -> Iterator[tuple[bytes, bool]]:
        """Yield (chunk, whether the body breaks after it)."""
        if not {"stall", "reset", "truncated"} & self._faults.keys():
            yield from ((chunk, False) for chunk in self._chunks or [b""])
            return
        body = b"".join(self._chunks)
        half = len(body) // 2
        yield body[:half], True
        yield body[half:], False

    async def _pause(self, seconds: float, receive: Receive) -> None:
        if seconds <= 0:
            return
        left = False
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                nonlocal left
                message: Any = None
                while message is None or message["type"] != "http.disconnect":
                    message = await receive()
                left = True
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._sleep(seconds)
            group.cancel_scope.cancel()
        if left:
            raise _ClientLeftError


class _ClientLeftError(Exception):
    """The client closed the connection during a wait."""
