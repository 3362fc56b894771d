"""A uvicorn server that ends without losing a request: what was sent before the signal is answered."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import uvicorn

from sfumato.cli.handshakes import stop_handshakes

_log = logging.getLogger("sfumato")
# For handshakes under way, and for the requests of connections that were accepted in the meantime to arrive.
_LAST_CALL_SECONDS = 0.1
_FIRST_REQUEST_SECONDS = 1.0
_POLL_SECONDS = 0.02
_TURNS = 3
_LONGEST_CLOSING_SECONDS = 2.0
# Closing takes a moment even where running work gets none.
_SHORTEST_SECONDS = 0.5


def working_seconds(grace_seconds: float) -> float:
    """Return how much of the grace period is for running work; the rest is for telling its clients, and for closing."""
    return grace_seconds - min(_LONGEST_CLOSING_SECONDS, grace_seconds / 4)


@dataclass(frozen=True, slots=True)
class Served:
    """What a server serves.

    Attributes:
        app: The ASGI app.
        begin_drain: Called once, when no new work is to be taken.
    """

    app: Callable[..., Any]
    begin_drain: Callable[[], None] = lambda: None


class DrainingServer(uvicorn.Server):
    """Serve until SIGTERM or SIGINT, then end as soon as everything is answered, and in any case in time.

    Args:
        served: What to serve.
        log_config: For `logging.config.dictConfig`.
        grace_seconds: Bound of the time between the signal and the end of the process.
        on_start: Called when it listens.
    """

    def __init__(
        self,
        served: Served,
        *,
        log_config: dict[str, Any],
        grace_seconds: float,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(uvicorn.Config(served.app, log_config=log_config, access_log=False, server_header=False))
        self._begin_drain = served.begin_drain
        self._grace_seconds = grace_seconds
        self._bound_seconds = max(_SHORTEST_SECONDS, grace_seconds)
        self._on_start = on_start
        self._told_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        # The last of the interpreter's work knows no handlers, and the alarm would be a crash. Registered before what
        # requests register, this comes after it: the alarm may have to cut that off.
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
        await super().startup(sockets)
        if self.started:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at the first signal, end at once at the second."""
        del frame
        if self._told_at is not None:
            os._exit(128 + sig)
        self.end()

    def end(self) -> None:
        """Begin to end; safe in a signal handler. Nothing raises the signal again: who was told to end, ends with 0."""
        if self._told_at is None:
            self._told_at = time.monotonic()
            # Whatever still runs then: a thread cannot be cancelled, and a stuck event loop cannot be asked.
            signal.signal(signal.SIGALRM, _cut_off)
            signal.setitimer(signal.ITIMER_REAL, self._bound_seconds)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take what is under way, answer it, close."""
        told_at = time.monotonic() if self._told_at is None else self._told_at
        for listener in sockets or []:
            self.stop_handshakes(listener)
        await asyncio.sleep(min(_LAST_CALL_SECONDS, self._grace_seconds / 16))
        accepted = [connection for listener in sockets or [] for connection in _accept_all(listener)]
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        await self._hear_first_requests(min(_FIRST_REQUEST_SECONDS, self._grace_seconds / 16))
        self._begin_drain()
        self._close_after_answers()
        await self._finish(told_at + working_seconds(self._grace_seconds))
        for idle in list(self.server_state.connections):
            idle.shutdown()
        await self._close(told_at + self._bound_seconds)

    def stop_handshakes(self, listener: socket.socket) -> None:
        """Let no new connection begin."""
        stop_handshakes(listener)

    def _protocol(self) -> asyncio.Protocol:
        """Return what uvicorn gives an accepted connection to."""
        build: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return build(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _close_after_answers(self) -> None:
        """Make every answer from now on its connection's last. Idle connections stay, to be told rather than reset."""
        headers = self.server_state.default_headers
        self.server_state.default_headers = [*headers, (b"connection", b"close")]
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                connection.shutdown()

    async def _hear_first_requests(self, timeout_seconds: float) -> None:
        """Wait a moment for connections that were just accepted and whose request may be on the way."""
        until = time.monotonic() + timeout_seconds
        while time.monotonic() < until and any(map(_is_new, self.server_state.connections)):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        # A request that was read in this turn of the loop gets its turn in the app before the drain begins.
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _finish(self, until: float) -> None:
        """Wait for running requests, and for those that idle connections begin meanwhile."""
        while self.server_state.tasks and (remaining := until - time.monotonic()) > 0:
            await asyncio.wait(set(self.server_state.tasks), timeout=remaining)

    async def _close(self, until: float) -> None:
        """Let the app end what still runs, in its own words; cut off what does not heed it."""
        remaining = until - time.monotonic()
        try:
            await asyncio.wait_for(self.lifespan.shutdown(), max(0.0, remaining * 0.75))
        except TimeoutError:
            _log.error("The app did not close within the grace period.")
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=max(0.0, (until - time.monotonic()) / 2))
        for task in self.server_state.tasks:
            task.cancel()


class WorkerServer(DrainingServer):
    """A server among others on one listening socket, ended by the process that started it."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at SIGTERM, however often it comes: a process group is told by several.

        A terminal's SIGINT reaches every process of the group, and the one that started this sends SIGTERM then.
        """
        del frame
        if sig == signal.SIGTERM:
            self.end()

    def stop_handshakes(self, listener: socket.socket) -> None:
        """Leave the listening socket as it is: other servers may go on with it."""


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield every connection in the backlog: event loops take one at a time, and a busy one takes its time."""
    listener.settimeout(0)
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.settimeout(0)
            yield connection


def _is_new(connection: object) -> bool:
    return getattr(connection, "cycle", None) is None


def _cut_off(number: int, frame: object) -> NoReturn:
    del number, frame
    os._exit(0)
