"""Where an HTTP/1.1 body ends (RFC 9112 §6 and §7), told while it is received. Sans-IO."""

from __future__ import annotations

import re
from typing import Protocol

# Longer lines between chunks, and longer trailers, are nobody's who means well.
_LINE_BYTES = 8 * 1024
_TRAILER_BYTES = 64 * 1024
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?")


class FramingError(ValueError):
    """Say that what was received is no body."""


class Framing(Protocol):
    """A body's end.

    Attributes:
        ended: Whether the body is complete.
        excess: Whether more was received than the body.
    """

    ended: bool
    excess: bool

    def take(self, received: bytes) -> list[bytes]:
        """Return what of *received* is of the body, whole where all of it is.

        Raises:
            FramingError: It is no body.
        """
        ...


class Sized:
    """A body of as many bytes as its head says."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.ended = size == 0
        self.excess = False

    def take(self, received: bytes) -> list[bytes]:
        """Return what belongs to the body."""
        part = received[: self._left]
        self._left -= len(part)
        self.ended = self._left == 0
        self.excess = len(part) < len(received)
        return [part] if part else []


class Chunked:
    """A body in chunks, each led by its size."""

    def __init__(self) -> None:
        self.ended = False
        self.excess = False
        # Of the chunk that is being received.
        self._left = 0
        self._is_after_chunk = False
        # The beginning of a line that was cut.
        self._line = b""
        self._trailer_bytes: int | None = None

    def take(self, received: bytes) -> list[bytes]:
        """Return the bytes of chunks, and read the lines between them."""
        parts = []
        position = 0
        while position < len(received) and not self.ended:
            if self._left:
                part = received[position : position + self._left]
                parts.append(part)
                position += len(part)
                self._left -= len(part)
            else:
                position = self._read_line(received, position)
        self.excess = position < len(received)
        return parts

    def _read_line(self, received: bytes, start: int) -> int:
        end = received.find(b"\n", start, start + _LINE_BYTES) + 1
        stop = end or min(len(received), start + _LINE_BYTES)
        self._line += received[start:stop]
        if len(self._line) > _LINE_BYTES:
            msg = "a line between chunks is too long"
            raise FramingError(msg)
        if end:
            line, self._line = self._line.removesuffix(b"\n").removesuffix(b"\r"), b""
            self._end_line(line)
        return stop

    def _end_line(self, line: bytes) -> None:
        if self._trailer_bytes is not None:
            self._trailer_bytes += len(line)
            self.ended = not line
            if self._trailer_bytes > _TRAILER_BYTES:
                msg = "the trailers are too long"
                raise FramingError(msg)
        elif self._is_after_chunk:
            self._is_after_chunk = False
            if line:
                msg = "a chunk is longer than its size"
                raise FramingError(msg)
        elif size := _SIZE.fullmatch(line):
            self._left = int(size[1], 16)
            self._is_after_chunk = self._left > 0
            self._trailer_bytes = None if self._left else 0
        else:
            msg = "a chunk has no size"
            raise FramingError(msg)
