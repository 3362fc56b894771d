"""The pictures of the comparison, and Gemini's answers that hold them. Sizes are of the decoded bytes."""

from __future__ import annotations

import functools
import hashlib
import json
import random

import pybase64

from tests.support.samples import encoded, noise

SIZES = {"10k": 10_000, "1m": 1_000_000, "8m": 8_000_000, "20m": 20_000_000}
MODEL = "gemini-3-pro-image"


@functools.cache
def picture(size: str) -> bytes:
    """Return the picture of a size, the same in every process."""
    start = encoded(noise(64, 64), "JPEG", quality=80)
    # What follows a JPEG's end belongs to nobody, and no one decodes it here.
    return start + random.Random(size).randbytes(max(0, SIZES[size] - len(start)))


@functools.cache
def digest(size: str) -> str:
    """Return the SHA-256 of the picture of a size."""
    return hashlib.sha256(picture(size)).hexdigest()


def answer(size: str) -> bytes:
    """Return Gemini's answer with the picture of a size."""
    parts = [{"inlineData": {"mimeType": "image/jpeg", "data": pybase64.b64encode(picture(size)).decode()}}]
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 1290, "totalTokenCount": 1297}
    candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}
    return json.dumps({"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL}).encode()


def prompt(size: str, number: str) -> str:
    """Return a prompt that asks for a size; other numbers make other prompts."""
    return f"A picture of {size}, number {number}"
