"""What hits are measured beside: the same bytes as a static file, and a Gemini whose pictures have a wished size."""

from __future__ import annotations

import functools
import json
import os
import re

import pybase64
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from tests.support.samples import encoded, noise

DIRECTORY_VARIABLE = "SFUMATO_BENCHMARK_FILES"


def create_floor() -> Starlette:
    """Serve the files of a directory, as plainly as Starlette can."""
    directory = os.environ[DIRECTORY_VARIABLE]

    async def send(request: Request) -> Response:
        await request.body()
        return FileResponse(os.path.join(directory, request.path_params["name"]), media_type="application/json")  # noqa: PTH118 - as in Starlette's own examples

    return Starlette(routes=[Route("/{name}", send, methods=["POST"])])


def create_upstream() -> Starlette:
    """Answer every generateContent with a picture of as many megabytes as the prompt says."""

    async def generate(request: Request) -> Response:
        document = await request.json()
        found = re.search(r"([\d.]+) MB", document["contents"][0]["parts"][0]["text"])
        return Response(_answer(float(found[1]) if found else 1.0), media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", generate, methods=["POST"])])


@functools.cache
def _answer(size_mb: float) -> bytes:
    start = encoded(noise(256, 256), "JPEG", quality=90)
    # What follows a JPEG's end belongs to nobody, and no one decodes it here.
    picture = start + os.urandom(max(0, round(size_mb * 1_000_000) - len(start)))
    parts = [{"inlineData": {"mimeType": "image/jpeg", "data": pybase64.b64encode(picture).decode()}}]
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 1290, "totalTokenCount": 1297}
    candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}
    return json.dumps(
        {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-3-pro-image"}
    ).encode()
