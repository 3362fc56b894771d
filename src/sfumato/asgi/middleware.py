"""`GeminiImageMiddleware`: guard, then a responder per request. Pure ASGI; what is on other paths is never read."""

from __future__ import annotations

from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.asgi.accounts_admin import AccountsAdmin
from sfumato.asgi.admin import CacheAdmin
from sfumato.asgi.answers import send_json
from sfumato.asgi.assist import AssistedRequest, makes_pictures
from sfumato.asgi.auth import Authorize, choose_authorize
from sfumato.asgi.health import health, ready
from sfumato.asgi.metrics import MetricsRoute
from sfumato.asgi.responder import ImageDoor, ImageResponder
from sfumato.asgi.routes import OWN_PREFIX, match_image_route
from sfumato.errors import ConfigurationError
from sfumato.runtime import Runtime
from sfumato.settings import Settings


class GeminiImageMiddleware:
    """Answer image requests for Gemini models in front of any ASGI app; everything else passes untouched.

    A request is ours when its path is one of OpenAI's image routes and its model is of a family served here.

    Args:
        app: The app behind.
        settings: The configuration, the environment's by default.
        runtime: A runtime to share; *settings* is then ignored and the caller closes it.
        mode: ``serve`` answers requests. ``assist`` leaves them to the app, a gateway whose handlers are ours, and
            completes its answers: headers, errors, pictures. Who may call is the gateway's to decide.
        authorize: An async callable from request to tenant label, which raises to refuse; the keys of
            `GEMINI_IMAGE_CLIENT_KEYS` by default.
        anonymous: Let everyone in when there is neither *authorize* nor a client key.
        exclusive: Answer every image route, also for models that are not ours; for an app that has none of its own.
        default_model: With *exclusive*, the model of a request that names none.

    A wrong configuration, or nothing that decides who may call, fails the app's start-up with the reason: frameworks
    build middleware inside the first call, where an exception would only be logged. Where no lifespan reaches the
    middleware, every request raises the reason.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings | None = None,
        runtime: Runtime | None = None,
        mode: Literal["serve", "assist"] = "serve",
        authorize: Authorize | None = None,
        anonymous: bool = False,
        exclusive: bool = False,
        default_model: str | None = None,
    ) -> None:
        self.app = app
        self.mode = mode
        self._owns_runtime = runtime is None
        self._wrong: ConfigurationError | None = None
        try:
            self.runtime = runtime or Runtime(settings)
            self._cache_admin = CacheAdmin(self.runtime)
            self._others = (AccountsAdmin(self.runtime), MetricsRoute(self.runtime))
            self._door = (
                None
                if mode == "assist"
                else ImageDoor(
                    runtime=self.runtime,
                    authorize=choose_authorize(self.runtime.settings, authorize=authorize, anonymous=anonymous),
                    fallback=None if exclusive else app,
                    default_model=default_model if exclusive else None,
                )
            )
        except ConfigurationError as error:
            self._wrong = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if self._wrong is not None:
            await _fail_to_start(self._wrong, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, self._closing(send))
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _route_path(scope)
        route = match_image_route(path) if self._door is not None and scope["method"] == "POST" else None
        if self._door is not None and route is not None:
            await ImageResponder(self._door, route, scope, receive, send).respond()
        elif self._door is None and makes_pictures(scope):
            await AssistedRequest(self.app, scope, receive, send).respond()
        elif self._cache_admin.serves(scope["method"], path):
            await self._cache_admin.respond(path, scope, receive, send)
        elif other := next((route for route in self._others if route.serves(scope["method"], path)), None):
            await other.respond(scope, receive, send)
        elif path.startswith(OWN_PREFIX) and scope["method"] in ("GET", "HEAD"):
            await self._serve_own(path, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve_own(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == f"{OWN_PREFIX}health":
            await send_json(send, *health())
        elif path == f"{OWN_PREFIX}ready":
            await send_json(send, *ready(self.runtime))
        else:
            await self.app(scope, receive, send)

    def _closing(self, send: Send) -> Send:
        """Close our client when the app's lifespan ends, while its event loop still runs."""

        async def closing(message: Message) -> None:
            if self._owns_runtime and message["type"].startswith("lifespan.shutdown"):
                await self.runtime.finish()
            await send(message)

        return closing


async def _fail_to_start(wrong: ConfigurationError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        raise wrong
    await receive()
    await send({"type": "lifespan.startup.failed", "message": f"sfumato: {wrong.message}"})


def _route_path(scope: Scope) -> str:
    """Return the path below the mount point."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
