"""The stored form of one picture: a fixed prefix, a JSON header, the raw bytes of the picture.

::

    4 bytes  magic "sfmt"      4 bytes  length of the header
    4 bytes  CRC-32 of the header       header (JSON), picture

The header holds no text of the client's: the prompt is a digest, a style of the client's own is the word "custom".
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any, Literal

import msgspec

from sfumato.cache.store import DamagedValueError
from sfumato.images.fingerprint import SCHEMA_VERSION, prompt_digest
from sfumato.images.prompts import STYLE_PHRASES
from sfumato.images.request import GeneratedImage, ImageRequest, Usage
from sfumato.wire.payload import DECODED_BYTES, Blob, Part, Piece, Pieces, chunks, raw_piece

_MAGIC = b"sfmt"
_PREFIX = struct.Struct(">4sII")


class DamagedEntryError(DamagedValueError):
    """Stored bytes are not an entry, not of this version, or not what was stored."""


class EntryHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a stored picture.

    Attributes:
        schema: The version of keys and entries, `fingerprint.SCHEMA_VERSION`.
        key: The cache key that it was stored under.
        created: Unix seconds when Gemini made the picture.
        ttl_seconds: How long from then it may be served.
        operation: ``generation`` or ``edit``.
        model: The model's base name.
        variant: The canonical name of the variant asked of Gemini.
        prompt_sha256: The digest of the client's own prompt in hex.
        tenant: Who asked, as a label or an opaque id.
        aspect_ratio, tier: As asked of Gemini.
        quality: The client's word, one of the known ones.
        style: ``vivid``, ``natural``, ``custom`` or None.
        usage, price_usd: What making it took and cost.
        mime_type, width, height: What the bytes say.
        size_bytes, sha256: Of the raw bytes; the digest in hex.
    """

    schema: int
    key: str
    created: float
    ttl_seconds: float
    operation: Literal["generation", "edit"]
    model: str
    variant: str
    prompt_sha256: str
    tenant: str | None
    aspect_ratio: str | None
    tier: str | None
    quality: str | None
    style: str | None
    usage: Usage
    price_usd: float
    mime_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(EntryHeader)


def dump(image: GeneratedImage, request: ImageRequest, *, key: str, ttl_seconds: float) -> Pieces:
    """Return the stored form of *image* in two pieces; call it in a thread above `payload.INLINE_BYTES`.

    The second piece is the picture: raw bytes as they are held, or Gemini's base64, decoded as it is read.

    Args:
        image: A fresh picture.
        request: What was asked.
        key: The cache key.
        ttl_seconds: How long the picture may be served, finite.

    Raises:
        ValueError: Gemini's base64 is damaged.
    """
    raw = raw_piece(image.picture)
    digest = _digest(raw)
    variant = request.resolved_variant
    header = _ENCODER.encode(
        EntryHeader(
            schema=SCHEMA_VERSION,
            key=key,
            created=image.created,
            ttl_seconds=ttl_seconds,
            operation=request.operation.value,
            model=variant.family.name,
            variant=variant.name,
            prompt_sha256=prompt_digest(request.prompt),
            tenant=request.tenant,
            aspect_ratio=request.aspect_ratio,
            tier=request.tier or variant.family.default_tier,
            quality=request.quality,
            style=_style_label(request.style),
            usage=image.usage,
            price_usd=image.price_usd,
            mime_type=image.picture.mime_type,
            width=image.picture.width,
            height=image.picture.height,
            size_bytes=len(raw),
            sha256=digest,
        )
    )
    return (_PREFIX.pack(_MAGIC, len(header), zlib.crc32(header)) + header, raw)


def open_entry(value: bytes | Blob) -> tuple[EntryHeader, Part]:
    """Return the header, and the picture's raw bytes uncopied and not yet checked.

    Raises:
        DamagedEntryError: The bytes are foreign, of another version, or cut short within the header.
    """
    header, end = _load_header(value)
    return header, Part(value, end, len(value))


def check_picture(header: EntryHeader, raw: Piece) -> None:
    """Compare raw bytes to what the header says of them; call it in a thread above `payload.INLINE_BYTES`.

    Raises:
        DamagedEntryError: They were cut short, or the digest differs.
    """
    if len(raw) != header.size_bytes or _digest(raw) != header.sha256:
        raise DamagedEntryError("the picture is not the one that was stored")


def load_header(value: bytes | Blob) -> EntryHeader:
    """Return the header alone, of a whole entry or of its beginning; the picture is not looked at.

    Raises:
        DamagedEntryError: The bytes are foreign, of another version, or cut short within the header.
    """
    return _load_header(value)[0]


def header_end(start: bytes) -> int:
    """Return how many bytes of an entry must be known for its header; 0 when *start* begins no entry."""
    if len(start) < _PREFIX.size:
        return 0
    magic, length, _ = _PREFIX.unpack_from(start)
    return _PREFIX.size + int(length) if magic == _MAGIC else 0


def describe(header: EntryHeader, *, now: float) -> dict[str, Any]:
    """Return what an administrator is told of an entry, for JSON; times in seconds, *now* in Unix seconds."""
    told: dict[str, Any] = msgspec.to_builtins(header)
    del told["schema"]
    age = max(0.0, now - header.created)
    return {**told, "age_seconds": age, "expires_in_seconds": max(0.0, header.ttl_seconds - age)}


def _load_header(value: bytes | Blob) -> tuple[EntryHeader, int]:
    whole = Part(value, 0, len(value))
    if len(whole) < _PREFIX.size:
        raise DamagedEntryError("too short for an entry")
    magic, length, checksum = _PREFIX.unpack(whole.read(0, _PREFIX.size))
    end = _PREFIX.size + length
    # A length past the end would make a blob read what is not there.
    if end > len(whole):
        raise DamagedEntryError("too short for its header")
    encoded = whole.read(_PREFIX.size, end)
    if magic != _MAGIC or zlib.crc32(encoded) != checksum:
        raise DamagedEntryError("not an entry")
    try:
        header = _DECODER.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DamagedEntryError("the header is unreadable") from None
    if header.schema != SCHEMA_VERSION:
        raise DamagedEntryError("the entry is of another version")
    return header, end


def _style_label(style: str | None) -> str | None:
    # A style that is not one of our words is text of the client's, which is never stored.
    return style if style is None or style in STYLE_PHRASES else "custom"


def _digest(raw: Piece) -> str:
    digest = hashlib.sha256()
    # Decoded for the digest in steps, and again as it is stored, it is never held in memory.
    for part in (raw,) if isinstance(raw, bytes | memoryview) else chunks((raw,), DECODED_BYTES):
        digest.update(part)
    return digest.hexdigest()
