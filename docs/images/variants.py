"""Draw ``variants.jpg``: what the emulator answers to a few variant names, at true proportions.

Run it from the root of the repository: ``.venv/bin/python docs/images/variants.py``.
"""  # noqa: INP001  # a script beside its picture

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path

import httpx
from PIL import Image, ImageDraw, ImageFont

from sfumato.emulator import create_emulator
from sfumato.images.variants import Variant, parse_variant

BASE = "gemini-3-pro-image"
# Each row is drawn at one scale: within a row a pixel is a pixel.
ROWS = (
    (6, "a lighthouse on a cliff at dawn", ("21x9", "16x9", "4x3", "1x1", "3x4", "9x16")),
    (9, "a tram in the rain, oil on canvas", ("16x9", "2k-16x9", "4k-16x9")),
)
WIDTH, MARGIN, LABEL_HEIGHT = 1280, 20, 44
PAPER, INK, FAINT = (250, 249, 246), (34, 36, 42), (110, 112, 120)


async def ask(client: httpx.AsyncClient, variant: Variant, prompt: str) -> Image.Image:
    """Return the emulator's picture of *variant*."""
    named = {"aspectRatio": variant.aspect_ratio, "imageSize": variant.tier}
    config = {name: value for name, value in named.items() if value}
    body = {
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {"responseModalities": ["TEXT", "IMAGE"], "imageConfig": config},
    }
    url = f"/v1beta/models/{variant.family.name}:generateContent"
    answer = await client.post(url, json=body, headers={"x-goog-api-key": "any"})
    parts = answer.raise_for_status().json()["candidates"][0]["content"]["parts"]
    data = next(part["inlineData"]["data"] for part in reversed(parts) if "inlineData" in part)
    return Image.open(io.BytesIO(base64.b64decode(data)))


async def draw_row(client: httpx.AsyncClient, scale: int, prompt: str, suffixes: tuple[str, ...]) -> Image.Image:
    """Return one row of pictures on a common base line, each with its name and its pixels below."""
    shown: list[tuple[str, str, Image.Image]] = []
    for suffix in suffixes:
        variant = parse_variant(f"{BASE}-{suffix}")
        assert variant is not None  # noqa: S101  # the names above are ours
        picture = await ask(client, variant, prompt)
        size = (round(picture.width / scale), round(picture.height / scale))
        small = picture.resize(size, Image.Resampling.LANCZOS)
        shown.append((f"-{suffix}", f"{picture.width} x {picture.height}", small))
    height = max(small.height for _, _, small in shown)
    row = Image.new("RGB", (WIDTH, height + LABEL_HEIGHT), PAPER)
    pen = ImageDraw.Draw(row)
    room = WIDTH - 2 * MARGIN - sum(small.width for _, _, small in shown)
    gap = min(2 * MARGIN, room // (len(shown) - 1))
    left = MARGIN
    for name, pixels, small in shown:
        row.paste(small, (left, height - small.height))
        pen.text((left, height + 6), name, fill=INK, font=ImageFont.load_default(size=16))
        pen.text((left, height + 25), pixels, fill=FAINT, font=ImageFont.load_default(size=13))
        left += small.width + gap
    return row


async def main() -> None:
    """Ask for every picture in one process, without a socket, and lay the rows out."""
    transport = httpx.ASGITransport(create_emulator())
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as client:
        rows = [await draw_row(client, *row) for row in ROWS]
    height = sum(row.height for row in rows) + MARGIN * (len(rows) + 1)
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    top = MARGIN
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + MARGIN
    sheet.save(Path(__file__).with_name("variants.jpg"), quality=86, optimize=True)


if __name__ == "__main__":
    asyncio.run(main())
