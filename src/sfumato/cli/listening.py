"""Listen for requests: on which address, in how many processes, and until when."""

from __future__ import annotations

import contextlib
import ipaddress
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from sfumato.cli.draining import DrainingServer, Served
from sfumato.cli.workers import Workers
from sfumato.errors import ConfigurationError

_BACKLOG = 2048


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
    build: Callable[[], Served],
    listener: socket.socket,
    *,
    name: str,
    log_config: dict[str, Any],
    workers: int = 1,
    grace_seconds: float = 5,
) -> None:
    """Serve until SIGTERM or SIGINT, then end without losing a request that was sent before; a second signal cuts off.

    Args:
        build: A factory of what is served; with several *workers* a picklable one, called in each.
        listener: Where to listen.
        name: Who listens, for the line on stdout that says so.
        log_config: For `logging.config.dictConfig`, in every process.
        workers: Processes.
        grace_seconds: Bound of the time between the signal and the end.

    Raises:
        ConfigurationError: The app does not start in a worker.
    """
    _raise_file_limit()
    # A service that is told to end while it starts, or when it is all but gone, has not failed either.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    host, port = listener.getsockname()[:2]
    line = f"{name} listens on http://{f'[{host}]' if ':' in host else host}:{port}"
    with listener:
        if workers == 1:
            server = DrainingServer(
                build(), log_config=log_config, grace_seconds=grace_seconds, on_start=lambda: _announce(line)
            )
            server.run([listener])
            return
        # Whoever connects before the first worker is up waits for it.
        listener.listen(_BACKLOG)
        _announce(line)
        Workers(build, listener, count=workers, log_config=log_config, grace_seconds=grace_seconds).run()


def _raise_file_limit() -> None:
    """Allow as many files as may be: a hit on its way holds one beside its connection, and 1024 is a usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _announce(line: str) -> None:
    # Flushed: whoever started this process in a pipe waits for the line.
    print(line, flush=True)  # noqa: T201  # the command's output


def _end(number: int, frame: object) -> NoReturn:
    del number, frame
    sys.exit(0)
