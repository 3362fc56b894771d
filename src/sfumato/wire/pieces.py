"""Pieces of a body: bytes held here, and blobs that are kept elsewhere and read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from sfumato.images.request import Blob, Piece


class ReadableNow(Blob, Protocol):
    """A blob that can tell whether reading would wait for a disk."""

    def read_now(self, start: int, stop: int) -> bytes | None:
        """Return the bytes from *start* to *stop*, or None when they would have to be waited for."""
        ...


def read(piece: Piece, start: int, stop: int) -> bytes:
    """Return the bytes of *piece* from *start* to *stop*; it may wait for a disk.

    Raises:
        OSError: They cannot be had any more.
    """
    if isinstance(piece, bytes):
        return piece[start:stop]
    if isinstance(piece, memoryview):
        return bytes(piece[start:stop])
    return piece.read(start, stop)


def read_now(piece: Piece, start: int, stop: int) -> bytes | None:
    """Return the bytes of *piece* from *start* to *stop*, or None when they would have to be waited for.

    Raises:
        OSError: They cannot be had any more.
    """
    if isinstance(piece, bytes | memoryview):
        return read(piece, start, stop)
    # Asked for by name: an isinstance() of a protocol costs as much as the reading.
    reader: Callable[[int, int], bytes | None] = getattr(piece, "read_now", piece.read)
    return reader(start, stop)


class Part:
    """A stretch of a piece, uncopied.

    Args:
        source: The whole.
        start, stop: Where the stretch begins and ends in it.
    """

    __slots__ = ("_source", "_start", "_stop")

    def __init__(self, source: Piece, start: int, stop: int) -> None:
        self._source = source
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        """Return how many bytes it has."""
        return self._stop - self._start

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to *stop*."""
        return read(self._source, self._start + start, self._start + stop)

    def read_now(self, start: int, stop: int) -> bytes | None:
        """Return the bytes from *start* to *stop*, or None when they would have to be waited for."""
        return read_now(self._source, self._start + start, self._start + stop)


def size_of(pieces: Iterable[Piece]) -> int:
    """Return the total number of bytes in *pieces*."""
    return sum(len(piece) for piece in pieces)
