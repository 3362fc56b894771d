"""Input pictures as Gemini takes them: the accepted types, and the check that bytes are what they are said to be."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from sfumato.emulator.schema import Blob
from sfumato.emulator.statuses import invalid_argument

_PILLOW_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
MIME_TYPES = (*_PILLOW_FORMATS, "image/heic", "image/heif")
_SIDEWAYS = (5, 6, 7, 8)
_MAX_PIXELS = 89_000_000
_NOT_VALID = "Provided image is not valid."


@dataclass(frozen=True, slots=True)
class InputPicture:
    """A checked input picture, its pixels as displayed; 0 by 0 for HEIC and HEIF, which Pillow does not read."""

    data: bytes
    mime_type: str
    width: int
    height: int


def read_picture(blob: Blob) -> InputPicture:
    """Check one inline picture, decoding it wholly.

    Raises:
        GoogleError: 400 ``Unsupported MIME type: …`` or ``Provided image is not valid.`` (seen 2026-11-21).
    """
    if blob.mime_type not in MIME_TYPES:
        raise invalid_argument(f"Unsupported MIME type: {blob.mime_type}")
    expected = _PILLOW_FORMATS.get(blob.mime_type)
    if expected is None:
        if blob.data[4:8] != b"ftyp" or blob.data[8:12] not in _HEIF_BRANDS:
            raise invalid_argument(_NOT_VALID)
        return InputPicture(blob.data, blob.mime_type, 0, 0)
    try:
        with Image.open(io.BytesIO(blob.data), formats=[expected]) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise invalid_argument(_NOT_VALID)
            image.load()
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
                width, height = height, width
            return InputPicture(blob.data, blob.mime_type, width, height)
    # Pillow's decoders raise nearly anything on broken bytes, and a warning is an error where the caller says so.
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, Warning):
        raise invalid_argument(_NOT_VALID) from None


def measure(data: bytes) -> tuple[int, int] | None:
    """Return the width and height that *data*'s header tells, None when Pillow cannot tell."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, Warning):
        return None
