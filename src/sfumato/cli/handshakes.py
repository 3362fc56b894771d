"""Stop new connections to a listening socket without losing those that are under way."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

# linux/socket.h; Python's socket module does not name it.
_SO_ATTACH_FILTER = 26
_FLAGS_OFFSET = 13
_SYN = 0x02
_ALL = 0xFFFFFFFF
# A classic BPF program over the TCP header, each line (operation, jump if true, jump if false, operand).
_DROP_SYN = (
    (0x30, 0, 0, _FLAGS_OFFSET),  # load the byte of the flags
    (0x45, 0, 1, _SYN),  # SYN is set: go on; else skip one
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, _ALL),  # keep all of it
)


def stop_handshakes(listener: socket.socket) -> None:
    """Let no new connection begin; those that have begun, or wait to be accepted, are not touched.

    Closing a listening socket resets every connection in its backlog, with the requests that were already sent on it.
    So the backlog must be empty first, and stay empty. Where the kernel has no such filter, this does nothing, and the
    gap between the last accept and the close remains.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _DROP_SYN))
    with contextlib.suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
        )
