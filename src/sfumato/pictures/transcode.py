"""From bytes to 8-bit pixels and back: the one place that decodes and encodes pictures. Synchronous, for threads."""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from sfumato.errors import InvalidParameterError, UpstreamFailureError
from sfumato.images.request import OutputFormat, Picture
from sfumato.wire.signature import Signature, read_signature

# The readers are called by name instead of through Image.open: no other of Pillow's many readers can be reached, and
# the global pixel limit, which only warns, stays out of it (callers have checked the header against their own).
_READERS: Mapping[str, type[ImageFile.ImageFile]] = MappingProxyType(
    {
        "image/png": PngImagePlugin.PngImageFile,
        "image/jpeg": JpegImagePlugin.JpegImageFile,
        "image/webp": WebPImagePlugin.WebPImageFile,
        "image/gif": GifImagePlugin.GifImageFile,
        "image/bmp": BmpImagePlugin.BmpImageFile,
        "image/tiff": TiffImagePlugin.TiffImageFile,
        "image/avif": AvifImagePlugin.AvifImageFile,
    }
)
_OURS_TO_TURN = ("image/png", "image/jpeg", "image/webp")
_TRANSPOSES: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)

MAX_SIDE: Mapping[OutputFormat, int] = MappingProxyType({"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383})
BEST_COMPRESSION = 100
_JPEG_QUALITY, _WEBP_QUALITY = 95, 90
# Coarser chroma costs nothing visible below this quality and a third of the bytes above it.
_FULL_CHROMA_QUALITY = 90
# 4096x4096 photo with grain, Pillow 13 with zlib-ng, 2026-11-21: level 1 takes 1.1 s for 31.1 MB, level 3 1.4 s for
# 30.9 MB, level 6 (the default) 2.6 s for 31.7 MB, level 0 0.6 s for 50.4 MB.
_PNG_LEVEL = 1
# The same photo as lossless WebP: method 0 takes 0.5-0.8 s for 24.1 MB, method 1 1.7 s for 19.6 MB. Lossy at quality
# 90: method 0 0.6 s for 4.8 MB, method 4 (the default) 1.6 s for 4.8 MB.
_WEBP_METHOD, _WEBP_LOSSLESS_EFFORT = 0, 20


class UnreadablePictureError(ValueError):
    """The bytes are no picture that can be decoded; whose fault that is, only the caller knows."""


def transcode(raw: bytes, *, output_format: OutputFormat, compression: int | None) -> Picture:
    """Re-encode one of Gemini's pictures in another format.

    The bytes are returned unchanged, and unchecked, when they have the format already and *compression* does not ask
    for less than the best. Otherwise EXIF, C2PA and every other record are dropped, an RGB colour profile is kept,
    and transparent pixels become white in JPEG.

    Args:
        raw: The picture's bytes, not base64.
        output_format: The format wanted.
        compression: OpenAI's ``output_compression``: 0 to 100, 100 is best; None takes 95 for jpeg and 90 for webp.
            PNG is lossless and ignores it.

    Raises:
        UpstreamFailureError: The bytes cannot be decoded.
        InvalidParameterError: The picture is too large for the format; names ``output_format``.
    """
    signature = read_signature(raw)
    best = output_format == "png" or compression in (None, BEST_COMPRESSION)
    if isinstance(signature, Signature) and signature.mime_type == f"image/{output_format}" and best:
        width, height = signature.displayed_size
        return Picture(raw=raw, mime_type=signature.mime_type, width=width, height=height)
    image = decode_result(raw)
    check_sides(image.size, output_format)
    if output_format == "png":
        data = encode_lossless(image, "png")
    elif output_format == "webp":
        data = _save(image, "WEBP", quality=_WEBP_QUALITY if compression is None else compression, method=_WEBP_METHOD)
    else:
        quality = _JPEG_QUALITY if compression is None else compression
        subsampling = 0 if quality >= _FULL_CHROMA_QUALITY else 2
        data = _save(flatten(image), "JPEG", quality=quality, subsampling=subsampling)
    return Picture(raw=data, mime_type=f"image/{output_format}", width=image.width, height=image.height)


def decode(data: bytes) -> Image.Image:
    """Decode the first frame to 8-bit RGB, or RGBA when it has alpha, as displayed.

    This is what "exact" means everywhere: 16-bit samples keep their high byte, palettes, grey and CMYK become RGB,
    the orientation is the signature's. Only an RGB colour profile survives in ``info``.

    Raises:
        UnreadablePictureError: The bytes are damaged, of no known format, or hold more pixels than the header says.
    """
    signature = read_signature(data)
    reader = _READERS.get(signature.mime_type) if isinstance(signature, Signature) else None
    if reader is None or not isinstance(signature, Signature):
        raise UnreadablePictureError
    try:
        image = reader(io.BytesIO(data))
        # A file may name its size twice; the limits were checked against the first, the decoder obeys the last.
        sane = image.width * image.height <= signature.width * signature.height
        pixels = _upright(image, signature) if sane else None
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (Pillow's readers raise a dozen types on damaged bytes, without a common base)
        pixels = None
    if pixels is None:
        raise UnreadablePictureError
    return pixels


def decode_result(raw: bytes) -> Image.Image:
    """Decode a picture of Gemini's.

    Raises:
        UpstreamFailureError: It cannot be decoded.
    """
    try:
        return decode(raw)
    except UnreadablePictureError:
        msg = "Gemini answered with an unreadable picture; send the request again."
        raise UpstreamFailureError(msg) from None


def encode_lossless(image: Image.Image, output_format: OutputFormat) -> bytes:
    """Encode so that every 8-bit sample decodes unchanged, colours under alpha 0 too (png or webp)."""
    if output_format == "webp":
        return _save(image, "WEBP", lossless=True, exact=True, quality=_WEBP_LOSSLESS_EFFORT, method=_WEBP_METHOD)
    return _save(image, "PNG", compress_level=_PNG_LEVEL)


def flatten(image: Image.Image) -> Image.Image:
    """Return *image* as RGB, transparent pixels on white."""
    if image.mode != "RGBA":
        return image
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    flat.info = image.info
    return flat


def check_sides(size: tuple[int, int], output_format: OutputFormat) -> None:
    """Check that the format can hold a picture of *size*.

    Raises:
        InvalidParameterError: It cannot; names ``output_format``.
    """
    if max(size) > MAX_SIDE[output_format]:
        msg = (
            f"The picture has {size[0]}x{size[1]} pixels and {output_format} holds at most "
            f"{MAX_SIDE[output_format]:,} a side: set 'output_format' to png."
        )
        raise InvalidParameterError(msg, param="output_format")


def _upright(image: Image.Image, signature: Signature) -> Image.Image:
    image.load()
    profile = image.info.get("icc_profile")
    # The readers of these two apply the orientation themselves, or translate it to EXIF.
    if signature.mime_type in ("image/tiff", "image/avif"):
        ImageOps.exif_transpose(image, in_place=True)
    pixels = _eight_bit(image)
    if signature.mime_type in _OURS_TO_TURN and signature.orientation in _TRANSPOSES:
        pixels = pixels.transpose(_TRANSPOSES[signature.orientation])
    # The profile of grey or CMYK samples would colour the RGB made of them.
    keep = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    pixels.info = {"icc_profile": profile} if keep else {}
    return pixels


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling (13.0.0): nearly everything would be white.
        high_bytes = slice(0 if image.mode.endswith("B") else 1, None, 2)
        return Image.frombytes("L", image.size, image.tobytes()[high_bytes]).convert("RGB")
    if image.mode in ("I", "F"):
        # 32-bit samples (TIFF) have no agreed range to scale from.
        raise UnreadablePictureError
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _save(image: Image.Image, container: str, **options: float) -> bytes:
    output = io.BytesIO()
    image.save(output, container, icc_profile=image.info.get("icc_profile"), **options)
    return output.getvalue()
