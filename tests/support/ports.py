"""Ports for servers that are told theirs."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port that nobody else is given before the server listens on it, or while it is away."""
    with socket.socket() as place:
        # On Linux a server that sets this too, as all do, may listen beside a socket that does not.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        if sys.platform != "linux":
            place.close()
        yield port


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with reserved_port() as port:
        return port
