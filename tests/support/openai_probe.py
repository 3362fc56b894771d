"""Run by another interpreter, with whatever openai it has: one generation, one edit, one refusal; JSON on stdout.

Usage: python openai_probe.py BASE_URL API_KEY. Imports nothing of ours.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
import zlib

import openai


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return an RGBA PNG; rows hold a filter byte each."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main() -> None:
    """Ask, and print what came."""
    base_url, api_key = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
    seen: dict[str, object] = {"version": openai.__version__}
    answer = client.images.generate(model="gemini-3-pro-image-16x9", prompt="A probe", n=2, quality="low")
    pictures = answer.data or []
    seen["generation"] = [answer.size, len(pictures), base64.b64decode(pictures[0].b64_json or "")[:2].hex()]
    opaque, clear = b"\x00" + b"\x10\x20\x30\xff" * 64, b"\x00" + b"\x00" * 64 * 4
    edit = client.images.edit(
        model="gemini-3-pro-image",
        image=[("a.png", png(64, 64, opaque * 64), "image/png")],
        mask=("m.png", png(64, 64, opaque * 32 + clear * 32), "image/png"),
        prompt="A probe",
        extra_body={"safety_level": "HIGH"},
    )
    seen["edit"] = [edit.size, len(edit.data or [])]
    try:
        client.images.generate(model="gemini-3-pro-image", prompt="x [[emulator:IMAGE_SAFETY]]")
    except openai.APIStatusError as error:
        seen["refusal"] = [type(error).__name__, error.status_code, error.message]
    sys.stdout.write(json.dumps(seen))


main()
