"""Masked edits: Gemini has no mask, so the kept pixels are put back here. Synchronous, for threads.

An edit's pixels are the mask's with alpha 0, as in OpenAI's contract (image_edit_params: "fully transparent areas
… indicate where image should be edited"). Every other pixel of the answer is the original's, exact to the bit.
"""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass
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
# Gemini's picture is stretched and blended this many rows at a time: 8 MB of a picture 8000 pixels wide, not 256.
_STRIP_ROWS, _LANCZOS_REACH = 256, 3
_WHERE_ZERO = [255] + [0] * 255
_WHERE_FULL = [0] * 255 + [255]
_WHERE_ANY = [0] + [255] * 255
_UPPER_HALF = [max(0, 2 * value - 255) for value in range(256)]


class MaskedEdit:
    """An original and its mask, checked before anything is billed; every method and building it belong in a thread.

    Between building and compositing lies Gemini's answer, half a minute maybe, so no decoded pixels are kept for it.

    Args:
        original: The first input image: PNG, JPEG or WebP.
        mask: A picture with alpha, of the original's displayed size.
        output_format: Lossless either way.
        feather_pixels: 0 or more.

    Attributes:
        mask_picture: The mask as Gemini is told of it: white where to edit, black elsewhere; a grey 8-bit PNG of its
            size. Only alpha counts. Colours under it do not: converting a mask's colours to grey is the trap that
            made other gateways send all-black masks (stdapi.ai #75, sub2api #2463).

    Raises:
        InvalidImageError: One cannot be decoded, they do not fit, or nothing may be edited; names ``image`` or
            ``mask``.
        InvalidParameterError: The original is too large for the format; names ``output_format``.
    """

    def __init__(
        self,
        original: InputImage,
        mask: InputImage,
        *,
        output_format: Literal["png", "webp"],
        feather_pixels: int = FEATHER_PIXELS,
    ) -> None:
        check_sides((original.width, original.height), output_format)
        if (mask.width, mask.height) != (original.width, original.height):
            msg = (
                f"The mask is {mask.width}x{mask.height} pixels and the first image is "
                f"{original.width}x{original.height}: send a mask of the same size."
            )
            raise InvalidImageError(msg, param="mask")
        self._original = original
        self._mask = mask
        self._output_format: Literal["png", "webp"] = output_format
        self._feather_pixels = feather_pixels
        self._lock = threading.Lock()
        self._canvas: weakref.ref[Canvas] | None = None
        self.mask_picture = _draw(mask)
        _decode_input(original, "image")

    def composite(self, result: bytes) -> Picture:
        """Put Gemini's result into the original where the mask lets it.

        The answer has the original's size, mode (8-bit RGB, or RGBA when it has alpha) and RGB colour profile.
        Outside the mask it decodes to exactly what the original decodes to. Inside it is opaque, and blends from the
        original into the result over the feather's pixels from the mask's edge; strokes too thin for that are
        replaced whole.

        Args:
            result: Gemini's picture, any size; it is stretched to the original's.

        Raises:
            UpstreamFailureError: The result cannot be decoded.
        """
        edit = flatten(decode_result(result))
        # Held to the end, so that whoever comes meanwhile shares it.
        canvas = self.canvas()
        pixels = canvas.painted(edit)
        del edit
        data = encode_lossless(pixels, self._output_format)
        return Picture(raw=data, mime_type=f"image/{self._output_format}", width=pixels.width, height=pixels.height)

    def canvas(self) -> Canvas:
        """Return the decoded original and weights: the same for all that hold it at a time, freed with the last."""
        with self._lock:
            canvas = self._canvas() if self._canvas is not None else None
            if canvas is None:
                canvas = _prepare(self._original, self._mask, self._feather_pixels)
                self._canvas = weakref.ref(canvas)
            return canvas


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Canvas:
    """What all results of an edit are painted on; never changed.

    Attributes:
        pixels: The original; where it may be edited, opaque.
        box: The part that may be edited: left, upper, right, lower.
        weights: The result's weight per pixel of the box, 0 to 255.
    """

    pixels: Image.Image
    box: tuple[int, int, int, int]
    weights: Image.Image

    def painted(self, edit: Image.Image) -> Image.Image:
        """Return a copy with *edit*, stretched to the whole, blended in."""
        pixels = self.pixels.copy()
        left, upper, right, lower = self.box
        for row in range(upper, lower, _STRIP_ROWS):
            end = min(row + _STRIP_ROWS, lower)
            strip = _stretched(edit, pixels.size, (left, row, right, end))
            # Pillow blends (a*(255-w) + b*w) / 255, rounded: weight 0 keeps a byte exactly (Paste.c, paste_mask_L).
            pixels.paste(strip, (left, row), self.weights.crop((0, row - upper, right - left, end - upper)))
        return pixels


def _stretched(edit: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Return the part *box* of *edit* stretched to *size*."""
    left, upper, right, lower = box
    across, down = edit.width / size[0], edit.height / size[1]
    reach = _LANCZOS_REACH * max(1.0, down) + 1
    first, last = max(0, int(upper * down - reach)), min(edit.height, math.ceil(lower * down + reach))
    # Rows first, always: Pillow chooses the order by the sizes, and each order clips elsewhere, which would show seams.
    rows = edit.crop((0, first, edit.width, last)).resize(
        (right - left, last - first),
        Image.Resampling.LANCZOS,
        box=(left * across, 0, min(right * across, edit.width), last - first),
    )
    return rows.resize(
        (right - left, lower - upper),
        Image.Resampling.LANCZOS,
        box=(0, upper * down - first, right - left, min(lower * down, edit.height) - first),
    )


def _draw(mask: InputImage) -> bytes:
    editable = _editable(mask)
    if editable.getbbox() is None:
        msg = "The mask has no fully transparent pixel: nothing may be edited. Make it transparent where to edit."
        raise InvalidImageError(msg, param="mask")
    return encode_lossless(editable, "png")


def _prepare(original: InputImage, mask: InputImage, feather_pixels: int) -> Canvas:
    # The mask comes first and alone: the original is not in memory while the feather is made.
    editable = _editable(mask)
    left, upper, right, lower = editable.getbbox() or (0, 0, 1, 1)
    # One kept pixel around it, where there is one: past its border a blur repeats the last.
    box = max(0, left - 1), max(0, upper - 1), min(mask.width, right + 1), min(mask.height, lower + 1)
    editable = editable.crop(box)
    weights = _feathered(editable, feather_pixels)
    pixels = _decode_input(original, "image")
    if pixels.mode == "RGBA":
        alpha = pixels.getchannel("A")
        # What hides under alpha 0 must not bleed into the feather: there is nothing to blend with.
        holes = ImageChops.darker(editable, alpha.crop(box).point(_WHERE_ZERO))
        weights = ImageChops.lighter(weights, holes)
        alpha.paste(255, box, editable)
        pixels.putalpha(alpha)
    return Canvas(pixels, box, weights)


def _feathered(editable: Image.Image, feather_pixels: int) -> Image.Image:
    """Return the result's weight per pixel: 0 outside, rising to 255 inside over *feather_pixels*."""
    if feather_pixels == 0:
        return editable
    blur = ImageFilter.BoxBlur(feather_pixels)
    # Across a straight edge the blur runs from 0 to 255 over both sides; its upper half lies inside.
    ramp = editable.filter(blur).point(_UPPER_HALF)
    # Strokes and specks without a core would fade to nothing, though the client asked to edit them.
    near_core = ramp.point(_WHERE_FULL).filter(ImageFilter.BoxBlur(2 * feather_pixels)).point(_WHERE_ANY)
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
