"""Pictures to send and pictures to look into."""

from __future__ import annotations

import base64
import io
import random

from PIL import Image


def noise(width: int, height: int, *, mode: str = "RGB", seed: int = 1) -> Image.Image:
    """Return a picture of seeded noise: no two pixels can be confused."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (width, height), random.Random(seed).randbytes(width * height * channels))


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """Return a picture's file bytes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def mask(width: int, height: int, box: tuple[int, int, int, int]) -> bytes:
    """Return an OpenAI mask: transparent, so editable, inside *box*, and opaque outside."""
    picture = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), box)
    return encoded(picture)


def opened(data: bytes) -> Image.Image:
    """Return a decoded picture."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def from_base64(text: str) -> Image.Image:
    """Return the picture in an answer's ``b64_json`` or data URI."""
    return opened(base64.b64decode(text.rpartition(",")[2]))
