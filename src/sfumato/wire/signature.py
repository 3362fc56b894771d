"""What a picture's first bytes say: type, pixels, alpha and orientation, without decoding anything.

Every walk is bounded and every read is checked: hostile bytes cost little and never raise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# A picture has tens of segments before its size; more is a hostile file, not a picture.
_MAX_STEPS = 4096
_MAX_FTYP_BYTES = 1024
_DETECTION_BYTES = 16

_TIFF_VALUE_CODES = {3: "H", 4: "I"}

_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC stand among the SOFs
_JPEG_LENGTHLESS = dict.fromkeys((0x01, *range(0xD0, 0xD8)), 2) | {0xFF: 1}  # TEM, the restarts, and a fill byte
_JPEG_NO_FRAME = frozenset((0x00, 0xD8, 0xD9, 0xDA))  # stuffing, SOI, EOI, SOS: the frame header did not come

_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIF_BRANDS = frozenset((b"mif1", b"msf1", b"mif2", b"miaf"))
# ISO 23008-12 6.5.10: irot turns by angle x 90 degrees anticlockwise; here in EXIF's words.
_IROT_ORIENTATIONS = (1, 8, 3, 6)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a picture's header says.

    Attributes:
        mime_type: ``image/png``, ``jpeg``, ``webp``, ``heic``, ``heif``, ``avif``, ``gif``, ``bmp`` or ``tiff``.
        width, height: Pixels as stored, before *orientation*.
        has_alpha: An alpha channel or a transparent colour is declared; not read for GIF, BMP and TIFF.
        orientation: EXIF's 1 to 8 (HEIF's ``irot`` in the same words); what browsers obey.
        complete: False when the file announces an orientation beyond the bytes given (WebP puts it last).
    """

    mime_type: str
    width: int
    height: int
    has_alpha: bool = False
    orientation: int = 1
    complete: bool = True

    @property
    def displayed_size(self) -> tuple[int, int]:
        """Return width and height as displayed: swapped for the orientations that lie on their side."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@dataclass(frozen=True, slots=True)
class Truncated:
    """The bytes may begin a picture, but end before its size.

    Attributes:
        needed_bytes: Bytes from the start that bring the reading further; always more than were given, not always
            enough (PNG and JPEG are walked segment by segment).
        mime_type: The type when it is certain, else None.
    """

    needed_bytes: int
    mime_type: str | None = None


class _ShortError(Exception):
    """The reading needs as many bytes as the one argument says."""


def read_signature(head: bytes | memoryview) -> Signature | Truncated | None:
    """Read type, size, alpha and orientation from the first bytes of a picture.

    64 KB are mostly enough, but Gemini's JPEGs carry C2PA records before their size and TIFF may put its header last.
    With a whole file, `Truncated` means that the file is cut.

    Returns:
        A `Signature` with sides of at least one pixel, `Truncated` when more bytes are needed, or None when it is no
        picture of a known type.
    """
    view = memoryview(head).cast("B")
    undecided = False
    for parts, mime_type, read in _KINDS:
        if all(magic.startswith(bytes(view[at : at + len(magic)])) for at, magic in parts):
            if len(view) < parts[-1][0] + len(parts[-1][1]):
                undecided = True
                continue
            try:
                signature = read(view)
            except _ShortError as short:
                return Truncated(short.args[0], mime_type)
            return signature if signature and signature.width > 0 and signature.height > 0 else None
    return Truncated(_DETECTION_BYTES) if undecided else None


def _need(view: memoryview, end: int) -> None:
    if len(view) < end:
        raise _ShortError(end)


def _read_png(view: memoryview) -> Signature | None:
    _need(view, 33)
    chunk, width, height, _depth, colour_type = struct.unpack_from(">8sIIBB", view, 8)
    if chunk != b"\x00\x00\x00\rIHDR":
        return None
    has_alpha, orientation, at = colour_type in (4, 6), 1, 33
    for _ in range(_MAX_STEPS):
        _need(view, at + 8)
        length, kind = struct.unpack_from(">I4s", view, at)
        # An eXIf behind the pixels is legal, but browsers do not look there, so nobody sees it obeyed.
        if kind in (b"IDAT", b"IEND"):
            return Signature("image/png", width, height, has_alpha, orientation)
        if kind == b"tRNS":
            has_alpha = True
        elif kind == b"eXIf":
            _need(view, at + 8 + length)
            orientation = _exif_orientation(view[at + 8 : at + 8 + length])
        at += 12 + length
    return None


def _read_jpeg(view: memoryview) -> Signature | None:
    at, orientation = 2, None
    for _ in range(_MAX_STEPS):
        _need(view, at + 2)
        if view[at] != 0xFF:
            return None
        marker = view[at + 1]
        if marker in _JPEG_LENGTHLESS:
            at += _JPEG_LENGTHLESS[marker]
            continue
        if marker in _JPEG_NO_FRAME:
            return None
        _need(view, at + 4)
        (length,) = struct.unpack_from(">H", view, at + 2)
        if marker in _JPEG_SOF:
            _need(view, at + 9)
            height, width = struct.unpack_from(">HH", view, at + 5)
            return Signature("image/jpeg", width, height, orientation=orientation or 1)
        if marker == 0xE1 and orientation is None:
            _need(view, at + 2 + length)
            segment = view[at + 4 : at + 2 + length]
            if bytes(segment[:6]) == b"Exif\x00\x00":
                orientation = _exif_orientation(segment)
        at += 2 + max(length, 2)
    return None


def _read_webp(view: memoryview) -> Signature | None:
    _need(view, 30)
    kind = bytes(view[12:16])
    if kind == b"VP8 " and not view[20] & 1 and bytes(view[23:26]) == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", view, 26)
        return Signature("image/webp", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and view[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", view, 21)
        return Signature("image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1))
    if kind != b"VP8X":
        return None
    width, height = (int.from_bytes(view[at : at + 3], "little") + 1 for at in (24, 27))
    orientation = _webp_orientation(view) if view[20] & 0x08 else 1
    return Signature("image/webp", width, height, bool(view[20] & 0x10), orientation or 1, orientation is not None)


def _webp_orientation(view: memoryview) -> int | None:
    at = 12
    for _ in range(_MAX_STEPS):
        if len(view) < at + 8:
            return None
        kind, length = struct.unpack_from("<4sI", view, at)
        if kind == b"EXIF":
            complete = len(view) >= at + 8 + length
            return _exif_orientation(view[at + 8 : at + 8 + length]) if complete else None
        at += 8 + length + (length & 1)
    return None


def _read_gif(view: memoryview) -> Signature | None:
    _need(view, 10)
    return Signature("image/gif", *struct.unpack_from("<HH", view, 6))


def _read_bmp(view: memoryview) -> Signature | None:
    _need(view, 26)
    (header_bytes,) = struct.unpack_from("<I", view, 14)
    if header_bytes not in (12, 16, 40, 52, 56, 64, 108, 124):
        return None
    # A negative height means that the rows run from the top.
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", view, 18)
    return Signature("image/bmp", width, abs(height))


def _read_tiff(view: memoryview) -> Signature | None:
    width, height, orientation = _tiff_header(view)
    return Signature("image/tiff", width, height, orientation=orientation)


def _tiff_header(view: memoryview) -> tuple[int, int, int]:
    """Read width, height (0 when absent) and orientation from the first directory."""
    _need(view, 8)
    order = "<" if bytes(view[:2]) == b"II" else ">"
    magic, at = struct.unpack_from(order + "HI", view, 2)
    tags = {}
    if magic == 42:
        _need(view, at + 2)
        end = at + 2 + 12 * min(struct.unpack_from(order + "H", view, at)[0], _MAX_STEPS)
        _need(view, end)
        for entry in range(at + 2, end, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", view, entry)
            if values == 1 and kind in _TIFF_VALUE_CODES:
                (tags[tag],) = struct.unpack_from(order + _TIFF_VALUE_CODES[kind], view, entry + 8)
    orientation = tags.get(0x0112, 1)
    return tags.get(0x0100, 0), tags.get(0x0101, 0), orientation if 1 <= orientation <= 8 else 1


def _exif_orientation(exif: memoryview) -> int:
    body = exif[6:] if bytes(exif[:6]) == b"Exif\x00\x00" else exif
    try:
        return _tiff_header(body)[2] if bytes(body[:2]) in (b"II", b"MM") else 1
    except _ShortError:
        return 1


def _read_heif(view: memoryview) -> Signature | None:
    (size,) = struct.unpack_from(">I", view, 0)
    if not _DETECTION_BYTES <= size <= _MAX_FTYP_BYTES:
        return None
    _need(view, size)
    mime_type = _heif_type([bytes(view[at : at + 4]) for at in (8, *range(16, size - 3, 4))])
    at = size
    for _ in range(_MAX_STEPS if mime_type else 0):
        _need(view, at + 16)
        size, kind = struct.unpack_from(">I4s", view, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", view, at + 8)
        # A box holds its own header; size 0, "to the end of the file", leaves no room for meta behind it.
        if size < 8:
            return None
        if kind == b"meta":
            _need(view, at + size)
            return _read_meta(view[at + 12 : at + size], mime_type or "")
        at += size
    return None


def _heif_type(brands: list[bytes]) -> str | None:
    if brands[0] not in _HEIC_BRANDS | _AVIF_BRANDS | _HEIF_BRANDS:
        return None
    # A general brand in front leaves it to the compatible ones to name the codec.
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "image/avif"
        if brand in _HEIC_BRANDS:
            return "image/heic"
    return "image/heif"


def _read_meta(meta: memoryview, mime_type: str) -> Signature:
    """Take the largest picture's size: tiles and thumbnails have properties beside it."""
    width, height, has_alpha, orientation = 0, 0, False, 1
    for kind, body in _boxes(_child(_child(meta, b"iprp"), b"ipco")):
        if kind == b"ispe" and len(body) >= 12:
            sides = struct.unpack_from(">II", body, 4)
            width, height = max((width, height), sides, key=lambda pair: pair[0] * pair[1])
        elif kind == b"irot" and len(body):
            orientation = _IROT_ORIENTATIONS[body[0] & 3]
        elif kind == b"auxC":
            has_alpha = has_alpha or bytes(body[4:64]).split(b"\x00")[0].endswith((b"auxid:1", b"auxiliary:alpha"))
    return Signature(mime_type, width, height, has_alpha, orientation)


def _child(view: memoryview, wanted: bytes) -> memoryview:
    return next((body for kind, body in _boxes(view) if kind == wanted), view[:0])


def _boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    for _ in range(_MAX_STEPS):
        if len(view) < at + 8:
            return
        size, kind = struct.unpack_from(">I4s", view, at)
        if size < 8:
            return
        yield kind, view[at + 8 : at + size]
        at += size


_KINDS: tuple[tuple[tuple[tuple[int, bytes], ...], str | None, Callable[[memoryview], Signature | None]], ...] = (
    (((0, b"\x89PNG\r\n\x1a\n"),), "image/png", _read_png),
    (((0, b"\xff\xd8\xff"),), "image/jpeg", _read_jpeg),
    (((0, b"RIFF"), (8, b"WEBP")), "image/webp", _read_webp),
    (((4, b"ftyp"), (12, b"")), None, _read_heif),
    (((0, b"GIF8"),), "image/gif", _read_gif),
    (((0, b"II*\x00"),), "image/tiff", _read_tiff),
    (((0, b"MM\x00*"),), "image/tiff", _read_tiff),
    (((0, b"BM"),), "image/bmp", _read_bmp),
)
