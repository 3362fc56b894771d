"""The app of the demo's second half where there is no `examples/fastapi_app.py`, which is the same at length."""

from __future__ import annotations

import hmac
import os
import secrets

from fastapi import FastAPI
from starlette.requests import Request

from sfumato.asgi.auth import presented_key
from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.errors import UnauthorizedError

# The host app's own secret, not a variable of sfumato's. The demo sets it; without it nobody gets in.
_KEY = os.environ.get("APP_KEY") or secrets.token_hex()


async def authorize(request: Request) -> str:
    """Let in whoever knows the app's key."""
    if not hmac.compare_digest(presented_key(request.headers).encode(), _KEY.encode()):
        raise UnauthorizedError("The key is not known here.")
    return "demo"


app = FastAPI()
app.add_middleware(GeminiImageMiddleware, authorize=authorize)


@app.get("/")
async def hello() -> dict[str, str]:
    """Show that the app's own routes are untouched."""
    return {"hello": "I am an app with pictures."}
