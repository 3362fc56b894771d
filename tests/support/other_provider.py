"""Another provider of pictures, for LiteLLM to fall back to: OpenAI's shape, and nothing of ours in it."""

from __future__ import annotations

import base64

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.support import samples

PICTURE = base64.b64encode(samples.encoded(samples.noise(40, 30))).decode()


async def _generate(request: Request) -> JSONResponse:
    prompt = (await request.json())["prompt"]
    if "other:500" in prompt:
        return JSONResponse({"error": {"message": "the other one broke", "type": "server_error"}}, status_code=500)
    return JSONResponse({"created": 1, "data": [{"b64_json": PICTURE, "revised_prompt": prompt}]})


def create_other_provider() -> Starlette:
    """Create it."""
    return Starlette(routes=[Route("/v1/images/generations", _generate, methods=["POST"])])
