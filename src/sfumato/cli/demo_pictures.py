"""The picture that the demo edits, and its mask; drawn without Pillow, which is not this room's."""

from __future__ import annotations

import struct
import zlib

EDIT_PIXELS = (720, 480)
EDIT_BOX = (400, 60, 600, 260)
"""Left, top, right and bottom of the mask's transparent part: what may be edited."""

_RGB, _RGBA = 2, 6


def edit_input() -> bytes:
    """Draw the evening sky over the sea, as a PNG."""
    width, height = EDIT_PIXELS
    horizon = height * 2 // 3
    rows = []
    for y in range(height):
        share = y / horizon if y < horizon else (y - horizon) / (height - horizon)
        warm, cold = (40 + round(200 * share), 110 - round(60 * share))
        sky = (warm, 60 + round(70 * share), cold + 40) if y < horizon else (20, 70 - round(40 * share), cold)
        # A ripple per column: a picture that is put back a pixel aside must not pass for the same.
        rows.append(bytes(channel + (x * 7 + y * 3) % 11 for x in range(width) for channel in sky))
    return _png(width, height, _RGB, rows)


def edit_mask() -> bytes:
    """Draw the mask: transparent in `EDIT_BOX`, opaque elsewhere."""
    width, height = EDIT_PIXELS
    left, top, right, bottom = EDIT_BOX
    kept = b"\x00\x00\x00\xff"
    whole = kept * width
    holed = kept * left + b"\x00" * 4 * (right - left) + kept * (width - right)
    return _png(width, height, _RGBA, [holed if top <= y < bottom else whole for y in range(height)])


def _png(width: int, height: int, colour_type: int, rows: list[bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
