"""Masked edits: Gemini has no mask, so the kept pixels are put back here. Synchronous, for threads.

An edit's pixels are the mask's with alpha 0, as in OpenAI's contract (image_edit_params: "fully transparent areas
… indicate where image should be edited"). Every other pixel of the answer is the original's, exact to the bit.
"""

from __future__ import annotations

from typing import Literal

from PIL import Image, ImageChops, ImageFilter

from sfumato.errors import InvalidImageError
from sfumato.images.request import InputImage, Picture
from sfumato.pictures.transcode import (
    UnreadablePictureError,
    check_sides,
    decode,
    decode_result,
    encode_lossless,
    flatten,
)

FEATHER_PIXELS = 4
_WHERE_ZERO = [255] + [0] * 255
_WHERE_FULL = [0] * 255 + [255]
_WHERE_ANY = [0] + [255] * 255
_UPPER_HALF = [max(0, 2 * value - 255) for value in range(256)]


def mask_picture(mask: InputImage) -> bytes:
    """Draw the mask as Gemini is told of it: white where to edit, black elsewhere; a grey 8-bit PNG of its size.

    Only alpha counts. Colours under it do not: converting a mask's colours to grey is the trap that made other
    gateways send all-black masks (stdapi.ai #75, sub2api #2463).

    Raises:
        InvalidImageError: The mask cannot be decoded or has no alpha; names ``mask``.
    """
    return encode_lossless(_editable(mask), "png")


def check_original(original: InputImage, *, output_format: Literal["png", "webp"]) -> None:
    """Check before anything is billed that `composite` will be able to use the original.

    Raises:
        InvalidImageError: It cannot be decoded; names ``image``.
        InvalidParameterError: It is too large for the format; names ``output_format``.
    """
    check_sides((original.width, original.height), output_format)
    _decode_input(original, "image")


def composite(
    original: InputImage,
    mask: InputImage,
    result: bytes,
    *,
    output_format: Literal["png", "webp"],
    feather_pixels: int = FEATHER_PIXELS,
) -> Picture:
    """Put Gemini's result into the original where the mask lets it; call it in a thread.

    The answer has the original's size, mode (8-bit RGB, or RGBA when it has alpha) and RGB colour profile. Outside
    the mask it decodes to exactly what the original decodes to. Inside it is opaque, and blends from the original
    into the result over *feather_pixels* from the mask's edge; strokes too thin for that are replaced whole.

    Args:
        original: The first input image: PNG, JPEG or WebP.
        mask: A picture with alpha, of the original's displayed size.
        result: Gemini's picture, any size; it is stretched to the original's.
        output_format: Lossless either way.
        feather_pixels: 0 or more.

    Raises:
        InvalidImageError: The original or the mask cannot be decoded or they do not fit; names ``image`` or ``mask``.
        InvalidParameterError: The original is too large for the format; names ``output_format``.
        UpstreamFailureError: The result cannot be decoded.
    """
    check_sides((original.width, original.height), output_format)
    editable = _editable(mask)
    pixels = _decode_input(original, "image")
    if editable.size != pixels.size:
        msg = (
            f"The mask is {editable.width}x{editable.height} pixels and the first image is "
            f"{pixels.width}x{pixels.height}: send a mask of the same size."
        )
        raise InvalidImageError(msg, param="mask")
    weights = _feathered(editable, feather_pixels)
    edit = flatten(decode_result(result)).resize(pixels.size, Image.Resampling.LANCZOS)
    _paste(pixels, edit, editable, weights)
    data = encode_lossless(pixels, output_format)
    return Picture(raw=data, mime_type=f"image/{output_format}", width=pixels.width, height=pixels.height)


def _paste(pixels: Image.Image, edit: Image.Image, editable: Image.Image, weights: Image.Image) -> None:
    # Pillow blends (a*(255-w) + b*w) / 255, rounded: weight 0 keeps a byte exactly (Paste.c, paste_mask_L).
    if pixels.mode == "RGB":
        pixels.paste(edit, mask=weights)
        return
    alpha = pixels.getchannel("A")
    # What hides under alpha 0 must not bleed into the feather: there is nothing to blend with.
    holes = ImageChops.darker(editable, alpha.point(_WHERE_ZERO))
    pixels.paste(edit, mask=ImageChops.lighter(weights, holes))
    alpha.paste(255, mask=editable)
    pixels.putalpha(alpha)


def _feathered(editable: Image.Image, feather_pixels: int) -> Image.Image:
    """Return the result's weight per pixel: 0 outside, rising to 255 inside over *feather_pixels*."""
    if feather_pixels == 0:
        return editable
    blur = ImageFilter.BoxBlur(feather_pixels)
    # Across a straight edge the blur runs from 0 to 255 over both sides; its upper half lies inside.
    ramp = editable.filter(blur).point(_UPPER_HALF)
    # Strokes and specks without a core would fade to nothing, though the client asked to edit them.
    core = ramp.point(_WHERE_FULL)
    near_core = core.filter(ImageFilter.BoxBlur(2 * feather_pixels)).point(_WHERE_ANY)
    weights = ImageChops.lighter(ramp, ImageChops.invert(near_core))
    # At inner corners the upper half reaches outside; there the original stays, whatever the blur says.
    return ImageChops.darker(weights, editable)


def _editable(mask: InputImage) -> Image.Image:
    pixels = _decode_input(mask, "mask")
    if pixels.mode != "RGBA":
        msg = "The mask has no alpha channel: send a PNG that is fully transparent where to edit."
        raise InvalidImageError(msg, param="mask")
    return pixels.getchannel("A").point(_WHERE_ZERO)


def _decode_input(image: InputImage, param: Literal["image", "mask"]) -> Image.Image:
    try:
        pixels = decode(image.data)
    except UnreadablePictureError:
        pixels = None
    if pixels is None or pixels.size != (image.width, image.height):
        msg = f"'{param}' is damaged and cannot be decoded: send the whole file."
        raise InvalidImageError(msg, param=param)
    return pixels
