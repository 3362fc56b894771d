"""Judge an input picture by its bytes before it is sent upstream. Synchronous, for threads."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from sfumato.errors import InvalidImageError, PayloadTooLargeError
from sfumato.images.request import InputImage
from sfumato.pictures.transcode import UnreadablePictureError, decode, encode_lossless
from sfumato.wire.signature import Signature, Truncated, read_signature

# Gemini takes these and refuses gif, bmp and the rest (ai.google.dev/gemini-api/docs/image-understanding, 2026-11-21).
PASSED_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
_MAX_CHUNKS = 1 << 16
_HEAD_BYTES = 64 * 1024
_JPEG_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one input picture may be at most.

    Attributes:
        max_pixels: Width times height, as the header says.
        max_bytes: Bytes as sent, and as re-encoded.
    """

    max_pixels: int
    max_bytes: int


def passes(data: bytes) -> bool:
    """Tell whether a picture is of a type that goes upstream as it is, and so is inspected without decoding it."""
    found = read_signature(memoryview(data)[:_HEAD_BYTES])
    return found is None or found.mime_type is None or found.mime_type in PASSED_TYPES


def inspect_image(data: bytes, *, param: str, limits: ImageLimits) -> InputImage:
    """Turn a client's bytes into an `InputImage` that Gemini takes; call it in a thread.

    PNG, JPEG, WebP, HEIC and HEIF pass unchanged after a check of their structure, without a decode. GIF, BMP, TIFF
    and AVIF become PNG: their first frame, upright. A declared type plays no part.

    Args:
        data: The bytes as the client sent them.
        param: The client's name for them, for error messages.
        limits: Checked against the header before any decode.

    Raises:
        InvalidImageError: Empty, cut, damaged, of another type, or over the pixel limit; names *param*.
        PayloadTooLargeError: Over the byte limit; names *param*.
    """
    if not data:
        msg = f"'{param}' is empty: send the bytes of a PNG, JPEG, WebP, HEIC or HEIF picture."
        raise InvalidImageError(msg, param=param)
    _check_bytes(data, param, limits)
    signature = read_signature(data)
    if isinstance(signature, Truncated):
        raise _damaged(param)
    if signature is None:
        msg = f"'{param}' is not a picture of a known type: send PNG, JPEG, WebP, HEIC or HEIF."
        raise InvalidImageError(msg, param=param)
    _check_pixels(signature, param, limits)
    if signature.mime_type in PASSED_TYPES:
        if not _is_whole(data, signature.mime_type):
            raise _damaged(param)
        width, height = signature.displayed_size
        mime_type, has_alpha = signature.mime_type, signature.has_alpha
    else:
        try:
            image = decode(data)
        except UnreadablePictureError:
            raise _damaged(param) from None
        data = encode_lossless(image, "png")
        _check_bytes(data, param, limits, " once re-encoded as PNG")
        (width, height), mime_type, has_alpha = image.size, "image/png", image.mode == "RGBA"
    return InputImage(data, mime_type, width, height, has_alpha, hashlib.sha256(data).hexdigest())


def _check_bytes(data: bytes, param: str, limits: ImageLimits, when: str = "") -> None:
    if len(data) > limits.max_bytes:
        msg = f"'{param}' has {len(data):,} bytes{when}; the limit is {limits.max_bytes:,}. Send a smaller picture."
        raise PayloadTooLargeError(msg, param=param)


def _check_pixels(signature: Signature, param: str, limits: ImageLimits) -> None:
    pixels = signature.width * signature.height
    if pixels > limits.max_pixels:
        msg = (
            f"'{param}' has {signature.width}x{signature.height} = {pixels:,} pixels; "
            f"the limit is {limits.max_pixels:,}. Send a smaller picture."
        )
        raise InvalidImageError(msg, param=param)


def _damaged(param: str) -> InvalidImageError:
    msg = f"'{param}' is damaged or incomplete: send the whole file of a PNG, JPEG, WebP, HEIC or HEIF picture."
    return InvalidImageError(msg, param=param)


def _is_whole(data: bytes, mime_type: str) -> bool:
    """Check what shows a cut or damaged file without decoding it."""
    if mime_type == "image/png":
        return _png_is_whole(memoryview(data))
    if mime_type == "image/jpeg":
        return _jpeg_is_whole(data)
    if mime_type == "image/webp":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return _heif_is_whole(data)


def _png_is_whole(view: memoryview) -> bool:
    at, has_pixels = 8, False
    for _ in range(_MAX_CHUNKS):
        if len(view) < at + 12:
            return False
        length, kind = struct.unpack_from(">I4s", view, at)
        if len(view) < at + 12 + length:
            return False
        (checksum,) = struct.unpack_from(">I", view, at + 8 + length)
        if zlib.crc32(view[at + 4 : at + 8 + length]) != checksum:
            return False
        if kind == b"IEND":
            return has_pixels
        has_pixels = has_pixels or kind == b"IDAT"
        at += 12 + length
    return False


def _jpeg_is_whole(data: bytes) -> bool:
    """Look for an end behind the start of the scan; the ones of thumbnails lie before it."""
    at = 2
    for _ in range(_MAX_CHUNKS):
        if len(data) < at + 4 or data[at] != 0xFF:
            return False
        if data[at + 1] == 0xDA:
            return data.find(b"\xff\xd9", at) > 0
        if data[at + 1] == 0xFF:
            at += 1
        elif data[at + 1] in _JPEG_STANDALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _heif_is_whole(data: bytes) -> bool:
    """Look for the end of the box that holds the pixels; phones append records of their own behind it."""
    at = 0
    for _ in range(_MAX_CHUNKS):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if kind == b"mdat":
            return size == 0 or len(data) >= at + size
        if size < 8:
            break
        at += size
    # Small pictures may lie inside meta, which the signature has seen whole.
    return b"idat" in data
