"""`create_app()`: sfumato as an app of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sfumato.asgi.answers import read_call, send_error, send_json
from sfumato.asgi.auth import Authorize, admit, choose_authorize
from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.errors import ImageError
from sfumato.images.models import FAMILIES
from sfumato.images.variants import Variant, list_variants, require_variant
from sfumato.runtime import Runtime
from sfumato.settings import Settings

# Release of the model, 2026-05-28; OpenAI's model objects need a number here.
_CREATED = 1779926400


def create_app(
    settings: Settings | None = None,
    *,
    runtime: Runtime | None = None,
    authorize: Authorize | None = None,
    anonymous: bool = False,
    export: bool = False,
) -> Starlette:
    """Create the standalone app: OpenAI's image and model routes, health and readiness.

    Args:
        settings: The configuration, the environment's by default.
        runtime: A runtime to share; the caller closes it.
        authorize: An async callable from request to tenant label; the client keys by default.
        anonymous: Let everyone in when there is neither *authorize* nor a client key.
        export: Let the ``OTEL_*`` variables install OpenTelemetry's SDK, in a process that belongs to this app.

    Raises:
        ConfigurationError: The settings are invalid, or nothing decides who may call.
    """
    served = runtime or Runtime(settings, export=export)
    decide = choose_authorize(served.settings, authorize=authorize, anonymous=anonymous)
    models = _Models(decide)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001  # Starlette's signature
        yield
        if runtime is None:
            await served.finish()

    app = Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/models", models, methods=["GET"]),
            Route("/v1/models/{model:path}", models, methods=["GET"]),
            Route("/models/{model:path}", models, methods=["GET"]),
        ],
        middleware=[
            Middleware(
                GeminiImageMiddleware,
                runtime=served,
                authorize=decide,
                exclusive=True,
                default_model=FAMILIES[0].name,
            )
        ],
        exception_handlers={HTTPException: _answer_http_error},
        lifespan=lifespan,
    )
    # For whoever serves it, to tell it that the end begins.
    app.state.runtime = served
    return app


class _Models:
    """The model routes: the list of variants, and each of them by any of its spellings."""

    def __init__(self, authorize: Authorize) -> None:
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request_id = read_call(request).request_id
        try:
            await admit(self._authorize, request)
            document = _one(request.path_params["model"]) if "model" in request.path_params else _all()
        except ImageError as error:
            await send_error(send, error, request_id=request_id)
        else:
            await send_json(send, 200, document, x_request_id=request_id)


def _all() -> dict[str, Any]:
    return {"object": "list", "data": [_model(v) for family in FAMILIES for v in list_variants(family)]}


def _one(name: str) -> dict[str, Any]:
    return _model(require_variant(name))


def _model(variant: Variant) -> dict[str, Any]:
    return {"id": variant.name, "object": "model", "created": _CREATED, "owned_by": "google"}


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this class only
    message = f"{request.method} {request.url.path} is not a route here." if error.status_code == 404 else error.detail
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    headers = {"x-request-id": read_call(request).request_id, **(error.headers or {})}
    return JSONResponse(body, status_code=error.status_code, headers=headers)
