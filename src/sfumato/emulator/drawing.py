"""Pictures of exactly the pixels asked for, with the request legible in them."""

from __future__ import annotations

import bisect
import colorsys
import io
import random
import threading
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageFont, ImageOps

PictureFormat = Literal["JPEG", "PNG"]
_PATCHES = 4
_TINT = 0.35
_GRAIN = 0.5
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MAX_PROMPT_LINES = 6
_MAX_PROMPT_CHARS = 2000
_PANEL = (18, 20, 28)
_PANEL_OPACITY = 0.75
_INK = (255, 255, 255)
_JPEG_QUALITY = 85
# A 4K picture holds about 100 MB while it is drawn; many at once would starve the machine the tests run on.
_EASELS = threading.BoundedSemaphore(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """What to draw.

    Attributes:
        title: The caption's first line.
        facts: Further short lines.
        prompt: Wrapped, and cut where it gets long.
        mood: Decides the colours: the same mood and texts draw the same bytes.
        base: Bytes of the input picture to start from, None for a fresh one.
        grain: Add noise, which makes the encoded picture megabytes, as Gemini's are.
    """

    width: int
    height: int
    title: str
    facts: tuple[str, ...]
    prompt: str
    mood: str
    base: bytes | None = None
    grain: bool = False


def draw(sketch: Sketch, picture_format: PictureFormat, *, quality: int | None = None) -> bytes:
    """Draw *sketch* and return the encoded picture; takes 0.1 to 0.5 s at 4K, so call it in a thread.

    Args:
        sketch: What to draw.
        picture_format: JPEG or PNG.
        quality: The JPEG encoder's.
    """
    with _EASELS:
        image = _background(sketch)
        if sketch.grain:
            noise = random.Random(sketch.mood).randbytes(sketch.width * sketch.height)
            image = Image.blend(image, Image.frombytes("L", image.size, noise).convert("RGB"), _GRAIN)
        _caption(image, sketch)
        out = io.BytesIO()
        if picture_format == "PNG":
            image.save(out, "PNG", compress_level=1)
        else:
            image.save(out, "JPEG", quality=_JPEG_QUALITY if quality is None else quality)
        return out.getvalue()


def _background(sketch: Sketch) -> Image.Image:
    size = (sketch.width, sketch.height)
    chance = random.Random(sketch.mood)
    hue = chance.random()
    patches = Image.new("RGB", (_PATCHES, _PATCHES))
    for x in range(_PATCHES):
        for y in range(_PATCHES):
            near = (hue + chance.uniform(-0.12, 0.12)) % 1
            red, green, blue = colorsys.hsv_to_rgb(near, chance.uniform(0.35, 0.75), chance.uniform(0.45, 0.95))
            patches.putpixel((x, y), (int(red * 255), int(green * 255), int(blue * 255)))
    gradient = patches.resize(size, Image.Resampling.BICUBIC)
    if sketch.base is None:
        return gradient
    with Image.open(io.BytesIO(sketch.base)) as opened:
        opened.draft("RGB", size)
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    return Image.blend(upright.resize(size, Image.Resampling.BILINEAR), gradient, _TINT)


def _caption(image: Image.Image, sketch: Sketch) -> None:
    font_size = max(10, round((sketch.width * sketch.height) ** 0.5 / 40))
    margin = max(4, min(image.size) // 40)
    font = ImageFont.load_default(size=font_size)
    room = image.width - 4 * margin
    lines = [piece for fact in (sketch.title, *sketch.facts) for piece in _wrap(fact, font, room)]
    told = _wrap(sketch.prompt, font, room)
    if len(told) > _MAX_PROMPT_LINES:
        told = [*told[: _MAX_PROMPT_LINES - 1], f"{told[_MAX_PROMPT_LINES - 1]} …"]
    lines += told
    pitch = round(font_size * 1.35)
    height = min(image.height - 2 * margin, len(lines) * pitch + 2 * margin)
    left, top = margin, image.height - margin - height
    box = (left, top, image.width - margin, top + height)
    panel = image.crop(box)
    panel = Image.blend(panel, Image.new("RGB", panel.size, _PANEL), _PANEL_OPACITY)
    pen = ImageDraw.Draw(panel)
    for row, line in enumerate(lines):
        pen.text((margin, margin + row * pitch), line, fill=_INK, font=font)
    image.paste(panel, box)


def _wrap(text: str, font: _Font, room: float) -> list[str]:
    """Break *text* into lines of at most *room* pixels, inside words that are longer; stop after what is shown."""
    lines: list[str] = []
    line = ""
    # Control characters have no glyph, and nobody reads more than this on a picture.
    for word in "".join(c if c.isprintable() else " " for c in text[:_MAX_PROMPT_CHARS]).split():
        joined = f"{line} {word}".lstrip()
        if line and font.getlength(joined) > room:
            lines.append(line)
            joined = word
        while (fitting := _fitting(joined, font, room)) < len(joined) and len(lines) <= _MAX_PROMPT_LINES:
            lines.append(joined[:fitting])
            joined = joined[fitting:]
        line = joined
        if len(lines) > _MAX_PROMPT_LINES:
            return lines
    return [*lines, line] if line else lines


def _fitting(text: str, font: _Font, room: float) -> int:
    """Return how many of the first characters of *text* fit into *room* pixels, one at least."""
    if font.getlength(text) <= room:
        return len(text)
    lengths = range(1, len(text) + 1)
    return max(1, bisect.bisect_right(lengths, room, key=lambda count: font.getlength(text[:count])))
