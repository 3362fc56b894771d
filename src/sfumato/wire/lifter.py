"""Lift long strings out of a JSON body while it arrives: a small skeleton to decode, and pieces as they came.

Sans-IO: `Lifter.feed` takes chunks cut anywhere. A picture's base64 is neither joined nor copied: where it ends is
found by searching for a quote, and that it is base64 by decoding each chunk once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_letters, digits

import msgspec
import pybase64

from sfumato.wire.payload import Piece, Pieces, join, size_of

# A string with more bytes than this leaves the skeleton.
LONG_BYTES = 4096
# Gemini's answers without their long strings take a few KB.
SKELETON_BYTES = 2 * 1024 * 1024
# Shorter parts of a string are gathered: a body that trickles in must not become a million pieces.
_SMALL_BYTES = 32 * 1024
_GATHERED_BYTES = 64 * 1024
# What stands in for a lifted string: this character and its number. A string of the body that begins with the
# character is lifted too, however short, so the two cannot be confused.
_MARK = "\x7f"
_MARKS = (b"\x7f", b"\\u007f", b"\\u007F")
_BASE64 = f"{ascii_letters}{digits}+/=".encode()
# Everything up to the next string that is long, cut, has an escape or begins with the mark. The bound on repetitions
# bounds what the regex engine remembers.
_PLAIN = re.compile(rb'[^"]*(?:"(?:[^"\\\x7f][^"\\]{0,%d})?"[^"]*){0,256}' % (LONG_BYTES - 1))


class LiftError(ValueError):
    """Say that a body has more than pictures in it: its skeleton is over the limit."""


@dataclass(frozen=True, slots=True)
class LiftedString:
    """A long string's bytes between its quotes, in order.

    Attributes:
        pieces: Parts of the chunks they came in.
        escaped: Whether JSON escapes stand in them.
        base64: Whether they are of base64's alphabet, as they stand.
    """

    pieces: Pieces
    escaped: bool
    base64: bool


@dataclass(frozen=True, slots=True)
class Lifted:
    """A JSON body in two: what to decode, and the long strings.

    Attributes:
        skeleton: The body with a stand-in for each long string.
        strings: The long strings in their order.
    """

    skeleton: bytes
    strings: tuple[LiftedString, ...] = ()

    @property
    def texts_bytes(self) -> int:
        """Return how much has to be decoded by whoever reads every long string."""
        return sum(size_of(string.pieces) for string in self.strings if not string.base64)

    def base64(self, value: str) -> Pieces:
        """Return the base64 that was decoded from the skeleton, as it came where that is what it says.

        It can be put into a JSON string: nothing in it ends one.

        Raises:
            ValueError: It has characters that base64 has not.
            msgspec.MsgspecError: It is not valid JSON.
            OSError: A piece that went to disk cannot be read.
        """
        string = self.strings[int(value[1:])] if value.startswith(_MARK) else None
        if string is not None and string.base64:
            return string.pieces
        # Base64 needs no escapes, but JSON allows them (\/); whether Google ever sends any is not known.
        data = self.text(value).encode()
        if not _is_base64(data):
            msg = "not base64"
            raise ValueError(msg)
        return (data,)

    def text(self, value: str) -> str:
        """Return a string that was decoded from the skeleton as what it stands for.

        Raises:
            msgspec.MsgspecError, UnicodeError: It is not valid JSON.
            OSError: A piece that went to disk cannot be read.
        """
        return _unescaped(self.strings[int(value[1:])].pieces) if value.startswith(_MARK) else value


class Lifter:
    """Take a body apart, chunk by chunk.

    Args:
        skeleton_bytes: What may remain beside the long strings.

    Attributes:
        movable_bytes: How much `take` would hand over.
    """

    def __init__(self, *, skeleton_bytes: int = SKELETON_BYTES) -> None:
        self._skeleton_bytes = skeleton_bytes
        self._skeleton = bytearray()
        self._strings: list[LiftedString] = []
        # The string that is being read: its large parts, then what was gathered of small ones.
        self._inside = False
        self._pieces: list[Piece] = []
        self._n_given_back = 0
        self.movable_bytes = 0
        self._gathered = bytearray()
        self._escaped = False
        self._base64 = True
        # Whether the string so far ends with a backslash that escapes what comes next.
        self._odd = False

    def feed(self, chunk: bytes) -> None:
        """Read the next chunk, whose parts in long strings are kept as they are.

        Raises:
            LiftError: The skeleton is over its limit.
        """
        position, end = 0, len(chunk)
        while position < end:
            if self._inside:
                position = self._read_string(chunk, position)
                continue
            match = _PLAIN.match(chunk, position)
            stop = match.end() if match else position
            self._skeleton += memoryview(chunk)[position:stop]
            self._inside = stop < end
            # What stopped the pattern is a quote, and it goes to the skeleton either way.
            position = stop + 1
        if len(self._skeleton) > self._skeleton_bytes:
            msg = "the body without its long strings is too large"
            raise LiftError(msg)

    def take(self) -> list[bytes | memoryview]:
        """Hand over the large parts of the open string, to be replaced with `give_back` before the next chunk."""
        taken = [piece for piece in self._pieces[self._n_given_back :] if isinstance(piece, bytes | memoryview)]
        del self._pieces[self._n_given_back :]
        self.movable_bytes = 0
        return taken

    def give_back(self, pieces: Iterable[Piece]) -> None:
        """Put *pieces* where `take` took some; they are not handed over again."""
        self._pieces += pieces
        self._n_given_back = len(self._pieces)

    def finish(self) -> Lifted:
        """Return the body; a string that never ended leaves a skeleton that cannot be decoded."""
        if self._inside:
            self._skeleton += b'"'
        return Lifted(bytes(self._skeleton), tuple(self._strings))

    def _read_string(self, chunk: bytes, start: int) -> int:
        """Take in what *chunk* has of the open string from *start*; return where reading goes on."""
        if self._base64 and len(chunk) - start >= _SMALL_BYTES:
            part = memoryview(chunk)[start:] if start else chunk
            # Then it has neither a quote nor a backslash, and is read once instead of three times.
            if _is_base64(part):
                self._odd = False
                self._append_gathered()
                self._pieces.append(part)
                self.movable_bytes += len(part)
                return len(chunk)
        position = start
        while True:
            quote = chunk.find(b'"', position)
            stop = len(chunk) if quote < 0 else quote
            if not self._escaped:
                self._escaped = chunk.find(b"\\", position, stop) >= 0
            odd = self._escaped and self._ends_odd(chunk[position:stop])
            if quote < 0:
                self._odd = odd
                self._keep(chunk, start, stop)
                return stop
            self._odd = False
            position = quote + 1
            if not odd:
                self._close(chunk, start, quote)
                return position

    def _ends_odd(self, part: bytes) -> bool:
        backslashes = len(part) - len(part.rstrip(b"\\"))
        return (backslashes + (self._odd and backslashes == len(part))) % 2 == 1

    def _keep(self, chunk: bytes, start: int, stop: int) -> None:
        """Take part of the open string: large ones as they are, small ones gathered."""
        if stop - start < _SMALL_BYTES:
            self._gathered += memoryview(chunk)[start:stop]
            if len(self._gathered) < _GATHERED_BYTES:
                return
            chunk, start, stop = b"", 0, 0
        self._append_gathered()
        if stop > start:
            self._append(chunk if stop - start == len(chunk) else memoryview(chunk)[start:stop])

    def _append_gathered(self) -> None:
        if self._gathered:
            self._append(bytes(self._gathered))
            self._gathered.clear()

    def _append(self, piece: bytes | memoryview) -> None:
        # While it is at hand: later it may be on disk.
        self._base64 = self._base64 and _is_base64(piece)
        self._pieces.append(piece)
        self.movable_bytes += len(piece)

    def _close(self, chunk: bytes, start: int, stop: int) -> None:
        self._inside = False
        if not self._pieces and len(self._gathered) + stop - start <= LONG_BYTES:
            self._gathered += memoryview(chunk)[start:stop]
            if not self._gathered.startswith(_MARKS):
                self._skeleton += b'"%b"' % bytes(self._gathered)
                self._forget()
                return
        else:
            self._keep(chunk, start, stop)
        self._append_gathered()
        self._skeleton += b'"%b%d"' % (_MARKS[0], len(self._strings))
        self._strings.append(LiftedString(tuple(self._pieces), self._escaped, self._base64))
        self._forget()

    def _forget(self) -> None:
        self._pieces = []
        self._n_given_back = self.movable_bytes = 0
        self._gathered.clear()
        self._escaped = False
        self._base64 = True


def lift(body: bytes) -> Lifted:
    """Take a whole body apart.

    Raises:
        LiftError: Its skeleton is over the limit.
    """
    lifter = Lifter()
    lifter.feed(body)
    return lifter.finish()


def _is_base64(text: bytes | memoryview) -> bool:
    """Tell whether *text*, which may be part of one, has base64's characters only."""
    # Four of them are valid wherever a text is cut. Decoding costs 0.05 ms a megabyte, searching 0.3 (2026-11-22).
    aligned = max(0, len(text) // 4 * 4 - 4)
    # A view, not a copy.
    view = memoryview(text)
    try:
        pybase64.b64decode(view[:aligned], validate=True)
    except ValueError:
        return False
    return not bytes(view[aligned:]).translate(None, _BASE64)


def _unescaped(pieces: Pieces) -> str:
    text: str = msgspec.json.decode(b'"%b"' % join(pieces), type=str)
    return text
