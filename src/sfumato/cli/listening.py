"""Run an ASGI app with uvicorn: say where it listens, end with 0 when told to end."""

from __future__ import annotations

import ipaddress
import math
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import uvicorn
from uvicorn.supervisors import Multiprocess

from sfumato.errors import ConfigurationError


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach *host*; a name other than ``localhost`` counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_socket(host: str, port: int) -> socket.socket:
    """Bind a socket, port 0 to any free port; the server makes it listen.

    Raises:
        ConfigurationError: The address cannot be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"Cannot listen on {host}, port {port}: {reason}.") from None
    listener.set_inheritable(True)
    return listener


def run(
    app: Callable[..., Any],
    listener: socket.socket,
    *,
    name: str,
    log_config: dict[str, Any],
    workers: int = 1,
    grace_seconds: float = 5,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        app: The app; with several *workers* a picklable factory of it, called in each.
        listener: Where to listen.
        name: Who listens, for the line on stdout that says so.
        log_config: For `logging.config.dictConfig`, in every process.
        workers: Processes.
        grace_seconds: How long running requests may take after the signal.
    """
    config = uvicorn.Config(
        app,
        factory=workers > 1,
        workers=workers,
        log_config=log_config,
        access_log=False,
        timeout_graceful_shutdown=math.ceil(grace_seconds),
        server_header=False,
    )
    # uvicorn raises the signal again once it has stopped; a service that was told to end has not failed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    host, port = listener.getsockname()[:2]
    line = f"{name} listens on http://{f'[{host}]' if ':' in host else host}:{port}"
    with listener:
        if workers > 1:
            _announce(line)
            Multiprocess(config, [listener]).run()
        else:
            _AnnouncingServer(config, line).run([listener])


class _AnnouncingServer(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _announce(self._line)


def _announce(line: str) -> None:
    # Flushed: whoever started this process in a pipe waits for the line.
    print(line, flush=True)  # noqa: T201  # the command's output


def _end(number: int, frame: object) -> NoReturn:
    del number, frame
    sys.exit(0)
