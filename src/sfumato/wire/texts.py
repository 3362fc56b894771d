"""Base64 and raw bytes as blobs: each made of the other as it is read, so that nobody holds both."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import pybase64

from sfumato.images.request import Piece
from sfumato.wire.pieces import read, read_now


class Base64Text:
    """The base64 of raw bytes, encoded as it is read (8 µs for 64 KB of text).

    Args:
        source: The raw bytes.
    """

    __slots__ = ("_source",)

    def __init__(self, source: Piece) -> None:
        self._source = source

    def __len__(self) -> int:
        """Return the length of the text."""
        return -(-len(self._source) // 3) * 4

    def read(self, start: int, stop: int) -> bytes:
        """Return the text from *start* to *stop*."""
        first, last = self._source_range(start, stop)
        return self._text(read(self._source, first, last), start, stop)

    def read_now(self, start: int, stop: int) -> bytes | None:
        """Return the text from *start* to *stop*, or None when its bytes would have to be waited for."""
        first, last = self._source_range(start, stop)
        data = read_now(self._source, first, last)
        return None if data is None else self._text(data, start, stop)

    def _source_range(self, start: int, stop: int) -> tuple[int, int]:
        length = len(self._source)
        return min(length, start // 4 * 3), min(length, -(-stop // 4) * 3)

    @staticmethod
    def _text(data: bytes, start: int, stop: int) -> bytes:
        text = pybase64.b64encode(data)
        skipped = start % 4
        return text if not skipped and len(text) == stop - start else text[skipped : skipped + stop - start]


class DecodedText:
    """The raw bytes of base64 in pieces, decoded as they are read; nothing is joined or held.

    Args:
        encoded: Base64 in order, cut anywhere; together one padded text.

    Raises:
        ValueError: It cannot be base64: its length is no multiple of four.
    """

    __slots__ = ("_ends", "_length", "_pieces", "_text_length")

    def __init__(self, encoded: Sequence[Piece]) -> None:
        self._pieces = encoded
        self._ends = list(accumulate(len(piece) for piece in encoded))
        self._text_length = self._ends[-1] if self._ends else 0
        if self._text_length % 4:
            msg = "this is not padded base64"
            raise ValueError(msg)
        tail = self._text(max(0, self._text_length - 2), self._text_length)
        self._length = self._text_length // 4 * 3 - tail.count(b"=")

    def __len__(self) -> int:
        """Return how many raw bytes there are."""
        return self._length

    def read(self, start: int, stop: int) -> bytes:
        """Return the raw bytes from *start* to *stop*; it may wait for a disk.

        Raises:
            ValueError: The text is not base64.
        """
        if start >= stop:
            return b""
        first, last = start // 3 * 4, -(-stop // 3) * 4
        data = pybase64.b64decode(self._text(first, last), validate=True)
        # Padding in the middle would decode, and move all that follows.
        if len(data) != min(self._length, last // 4 * 3) - first // 4 * 3:
            msg = "there is padding within this base64"
            raise ValueError(msg)
        return data[start % 3 : start % 3 + stop - start]

    def _text(self, start: int, stop: int) -> bytes:
        place = bisect_right(self._ends, start)
        parts: list[bytes] = []
        while start < stop:
            piece, end = self._pieces[place], self._ends[place]
            begin = end - len(piece)
            parts.append(read(piece, start - begin, min(stop, end) - begin))
            start = min(stop, end)
            place += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)
