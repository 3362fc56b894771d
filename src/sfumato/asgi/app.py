"""`create_app()`: sfumato as an app of its own."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sfumato.asgi.auth import Authorize, choose_authorize
from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.errors import ImageError, ModelNotFoundError
from sfumato.images.models import FAMILIES
from sfumato.images.variants import Variant, list_variants, parse_variant
from sfumato.runtime import Runtime
from sfumato.settings import Settings, load_settings
from sfumato.wire.headers import error_headers
from sfumato.wire.openai_images import render_error

# Release of the model, 2026-05-28; OpenAI's model objects need a number here.
_CREATED = 1779926400

Endpoint = Callable[[Request], Awaitable[JSONResponse]]


def create_app(
    settings: Settings | None = None,
    *,
    runtime: Runtime | None = None,
    authorize: Authorize | None = None,
    anonymous: bool = False,
) -> Starlette:
    """Create the standalone app: OpenAI's image and model routes, health and readiness.

    Args:
        settings: The configuration, the environment's by default.
        runtime: A runtime to share; the caller closes it.
        authorize: An async callable from request to tenant label; the client keys by default.
        anonymous: Let everyone in when there is neither *authorize* nor a client key.

    Raises:
        ConfigurationError: The settings are invalid, or nothing decides who may call.
    """
    settings = runtime.settings if runtime else settings or load_settings()
    decide = choose_authorize(settings, authorize=authorize, anonymous=anonymous)

    async def models(request: Request) -> JSONResponse:
        await decide(request)
        rows = [_model(variant) for family in FAMILIES for variant in list_variants(family)]
        return JSONResponse({"object": "list", "data": rows})

    async def model(request: Request) -> JSONResponse:
        await decide(request)
        name = request.path_params["model"]
        variant = parse_variant(name)
        if variant is None:
            raise ModelNotFoundError(f"The model '{name[:200]}' is not served here.", param="model")
        return JSONResponse(_model(variant))

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/models", models),
            Route("/v1/models/{model:path}", model),
            Route("/models/{model:path}", model),
        ],
        middleware=[
            Middleware(
                GeminiImageMiddleware,
                settings=settings,
                runtime=runtime,
                authorize=decide,
                exclusive=True,
                default_model=FAMILIES[0].name,
            )
        ],
        exception_handlers={ImageError: _answer_error, HTTPException: _answer_http_error},
    )


def _model(variant: Variant) -> dict[str, Any]:
    return {"id": variant.name, "object": "model", "created": _CREATED, "owned_by": "google"}


async def _answer_error(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001  # Starlette's signature
    assert isinstance(error, ImageError)  # noqa: S101  # registered for this class only
    request_id = f"req_{uuid.uuid4().hex}"
    return JSONResponse(
        render_error(error, request_id=request_id),
        status_code=error.status,
        headers=error_headers(error, request_id=request_id),
    )


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this class only
    message = f"{request.method} {request.url.path} is not a route here." if error.status_code == 404 else error.detail
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(body, status_code=error.status_code, headers=dict(error.headers or {}))
