"""A FastAPI app with a route of its own; the middleware in front of it answers image requests for Gemini's models.

    pip install 'sfumato[cli]' fastapi
    GEMINI_API_KEY=… APP_KEY=secret uvicorn --app-dir examples fastapi_app:app

Then, as an OpenAI client: `OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="secret").images.generate(...)`.
"""

from __future__ import annotations

import hmac
import os

from fastapi import FastAPI
from starlette.requests import Request

from sfumato import GeminiImageMiddleware
from sfumato.errors import UnauthorizedError

TEAM_KEYS = {"demo-team": os.environ["APP_KEY"]}


async def authorize(request: Request) -> str:
    """Return the caller's team, which becomes the tenant in logs; raise to refuse.

    A middleware runs outside the routes' own dependencies, so it asks here: put your app's own check in.
    """
    _, _, key = request.headers.get("authorization", "").partition(" ")
    for team, known in TEAM_KEYS.items():
        if key and hmac.compare_digest(key.encode(), known.encode()):
            return team
    raise UnauthorizedError("The key is not known here. Send it as 'Authorization: Bearer'.")


app = FastAPI(title="An app with pictures")
app.add_middleware(GeminiImageMiddleware, authorize=authorize)


@app.get("/")
async def hello() -> dict[str, str]:
    """Show that everything that is not an image request reaches the app untouched."""
    return {"hello": "POST /v1/images/generations makes a picture."}
