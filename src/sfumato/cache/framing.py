"""The form of a value in an object or a file: a small head, then the value's bytes as they are. Pure.

::

    magic "sfumobj", in a file "sfumato", version (1 byte), CRC-32 of the next three and the key (4),
    length of the key (4), end of its time in Unix seconds (8, a double), length of the value (8), key, value

The value's bytes are not summed here: a picture's entry carries a digest, which is checked at every lookup.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from sfumato.cache.store import DamagedValueError

if TYPE_CHECKING:
    from typing_extensions import Buffer

OBJECT_MAGIC, FILE_MAGIC = b"sfumobj", b"sfumato"
_VERSION = 1
_GUARD = struct.Struct(">7sBI")
_SHAPE = struct.Struct(">IdQ")
_FIXED_BYTES = _GUARD.size + _SHAPE.size


class Head(NamedTuple):
    """What stands before a value: its key, the end of its time in Unix seconds, its size, and the head's own."""

    key: str
    expires_at: float
    value_bytes: int
    head_bytes: int


def head_size(key: str) -> int:
    """Return how many bytes stand before a value of *key*."""
    return _FIXED_BYTES + len(key.encode())


def build_head(key: str, *, expires_at: float, value_bytes: int, magic: bytes = OBJECT_MAGIC) -> bytes:
    """Return what is written before the value."""
    encoded = key.encode()
    shape = _SHAPE.pack(len(encoded), expires_at, value_bytes) + encoded
    return _GUARD.pack(magic, _VERSION, zlib.crc32(shape)) + shape


def parse_head(data: bytes | bytearray, *, size: int, magic: bytes = OBJECT_MAGIC) -> Head | None:
    """Return the head at the start of *data*, or None when more of it is needed.

    Args:
        data: The object or file from its start on.
        size: Of the whole in bytes.
        magic: What it must begin with.

    Raises:
        DamagedValueError: It is foreign, of another version, cut short or damaged.
    """
    if size < _FIXED_BYTES:
        raise DamagedValueError("too short for a value")
    if len(data) < _FIXED_BYTES:
        return None
    found, version, checksum = _GUARD.unpack_from(data)
    key_bytes, expires_at, value_bytes = _SHAPE.unpack_from(data, _GUARD.size)
    # Compared before anything is read by these lengths: damaged ones may ask for more than there is memory.
    if (found, version) != (magic, _VERSION) or _FIXED_BYTES + key_bytes + value_bytes != size:
        raise DamagedValueError("foreign or cut short")
    end = _FIXED_BYTES + key_bytes
    if len(data) < end:
        return None
    if zlib.crc32(data[_GUARD.size : end]) != checksum:
        raise DamagedValueError("the head is damaged")
    return Head(data[_FIXED_BYTES:end].decode(errors="replace"), expires_at, value_bytes, end)


class ValueReader:
    """Take in an object piece by piece and give out its value, copied once.

    Args:
        key: The key that the value must have been stored under.
        size: Of the whole object in bytes.
    """

    def __init__(self, key: str, *, size: int) -> None:
        self.expires_at = math.inf
        self._key = key
        self._size = size
        self._start = bytearray()
        self._head: Head | None = None
        self._value = io.BytesIO()

    def feed(self, piece: Buffer) -> None:
        """Take the next piece; once the head is complete, `expires_at` is the value's.

        Raises:
            DamagedValueError: The object is foreign, of another key, cut short or damaged.
        """
        if self._head is not None:
            self._value.write(piece)
            return
        self._start += piece
        self._head = parse_head(self._start, size=self._size)
        if self._head is not None:
            if self._head.key != self._key:
                raise DamagedValueError("the object is of another key")
            self.expires_at = self._head.expires_at
            self._value.write(memoryview(self._start)[self._head.head_bytes :])

    def value(self) -> bytes:
        """Return the value after the last piece.

        Raises:
            DamagedValueError: The object was cut short.
        """
        if self._head is None or self._value.tell() != self._head.value_bytes:
            raise DamagedValueError("the object was cut short")
        # BytesIO hands out its own bytes: no copy (CPython, bytesio.c).
        return self._value.getvalue()
