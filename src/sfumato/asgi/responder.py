"""One request: bounded read, parse, client, streamed answer."""

from __future__ import annotations

import dataclasses
import logging
import re
import uuid
from typing import Any

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sfumato.asgi.auth import Authorize
from sfumato.asgi.body import BufferedBody, ClientDisconnectedError, Form, parse_body
from sfumato.asgi.routes import ImageRoute
from sfumato.errors import ImageError, InternalError, InvalidParameterError, ModelNotFoundError, UnauthorizedError
from sfumato.images.models import FAMILIES
from sfumato.images.request import ImageResult, Picture
from sfumato.images.resolution import ImageWish
from sfumato.images.variants import parse_variant
from sfumato.runtime import Runtime
from sfumato.settings import MEGABYTE
from sfumato.telemetry.observer import Call
from sfumato.wire.headers import error_headers, parse_cache_control, parse_trace_id, result_headers, stricter
from sfumato.wire.openai_images import parse_request, render_error, render_response
from sfumato.wire.payload import INLINE_BYTES, Pieces, base64_pieces, chunks, picture_bytes, size_of

_log = logging.getLogger("sfumato")
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:/+=-]{1,128}$")


class ImageResponder:
    """Answer one image request, or hand it on when its model is not ours.

    Args:
        runtime: Gives the client.
        authorize: Decides who may call.
        fallback: Whoever answers for models that are not ours; None answers 404 itself.
        default_model: The model of a request that names none; None hands such requests on.
    """

    def __init__(
        self, runtime: Runtime, *, authorize: Authorize, fallback: ASGIApp | None, default_model: str | None
    ) -> None:
        self._runtime = runtime
        self._authorize = authorize
        self._fallback = fallback
        self._default_model = default_model
        self._max_bytes = int(runtime.settings.max_request_mb * MEGABYTE)

    async def respond(self, route: ImageRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request in *scope*; every error is answered in OpenAI's shape."""
        request = Request(scope)
        call = _call(request)
        body = BufferedBody(receive)
        error: ImageError | None = None
        wish: ImageWish | None = None
        try:
            wish = await self._read_wish(route, request, body)
        except ClientDisconnectedError:
            return
        except ImageError as refused:
            error = refused
        except Exception:  # noqa: BLE001  # every request is answered; the traceback is the log's
            _log.exception("Request %s failed before it was understood", call.request_id)
            error = InternalError("Something failed here that should not. Tell the operator.")
        if error is not None:
            await self._refuse(error, route, body, call, send)
        elif wish is not None:
            await self._generate(wish, call, send)
        elif self._fallback is not None:
            await self._fallback(scope, body.replay(), send)

    async def _refuse(self, error: ImageError, route: ImageRoute, body: BufferedBody, call: Call, send: Send) -> None:
        self._runtime.client.refuse(
            error, call=call, operation=route.operation.value, model=_known(route.model or body.peek_model())
        )
        await send_error(send, error, request_id=call.request_id)

    async def _generate(self, wish: ImageWish, call: Call, send: Send) -> None:
        try:
            result = await self._runtime.client.generate(wish, call=call)
        except ImageError as error:
            await send_error(send, error, request_id=call.request_id)
        else:
            await _send_result(send, result, request_id=call.request_id)

    async def _read_wish(self, route: ImageRoute, request: Request, body: BufferedBody) -> ImageWish | None:
        """Return what the client asks, None when its model is not ours.

        Raises:
            ImageError: The caller may not call, or the request cannot be served.
            ClientDisconnectedError: The client went away.
        """
        denied, tenant = await self._admit(request)
        # Nobody else answers here, so nothing is read for a caller who may not call.
        if denied and self._fallback is None:
            raise denied
        await body.read(self._max_bytes)
        form, model = await self._understand(body, request, route)
        try:
            variant = parse_variant(model) if model else None
        except ModelNotFoundError as error:
            raise denied or error from None
        if variant is None and self._fallback is not None:
            return None
        if denied:
            raise denied
        if isinstance(form, ImageError):
            raise form
        if variant is None:
            raise _not_served(model)
        wish = parse_request(
            route.operation,
            variant,
            form.fields,
            files=form.images,
            mask=form.mask,
            drop_unknown=self._runtime.settings.drop_params,
            tenant=tenant,
        )
        header = parse_cache_control(request.headers.get("cache-control"))
        return dataclasses.replace(wish, cache_control=stricter(wish.cache_control, header))

    async def _admit(self, request: Request) -> tuple[ImageError | None, str | None]:
        try:
            return None, await self._authorize(request)
        except ImageError as error:
            return error, None
        except Exception:  # noqa: BLE001  # whatever a host's own check raises is a refusal, never an entry
            return UnauthorizedError("This request was not let in. Check the API key."), None

    async def _understand(
        self, body: BufferedBody, request: Request, route: ImageRoute
    ) -> tuple[Form | ImageError, str | None]:
        """Return the form, or why there is none, and the model's name as far as it can be told."""
        try:
            form = await parse_body(body, request.headers, max_bytes=self._max_bytes)
        except ImageError as error:
            return error, route.model or body.peek_model() or self._default_model
        model = route.model or form.fields.get("model") or self._default_model
        if model is not None and not isinstance(model, str):
            return InvalidParameterError("Invalid value for 'model': expected a string.", param="model"), None
        return form, model


async def send_error(send: Send, error: ImageError, *, request_id: str) -> None:
    """Answer with *error* in OpenAI's shape."""
    body = msgspec.json.encode(render_error(error, request_id=request_id))
    headers = error_headers(error, request_id=request_id)
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    await _send(send, error.status, headers, (body,))


async def send_json(send: Send, status: int, document: Any) -> None:
    """Answer with a small JSON document."""
    await _send(send, status, {}, (msgspec.json.encode(document),))


async def _send_result(send: Send, result: ImageResult, *, request_id: str) -> None:
    encoded = [await _encoded(image.picture) for image in result.images]
    headers = result_headers(result, request_id=request_id)
    await _send(send, 200, headers, render_response(result, encoded))


async def _encoded(picture: Picture) -> Pieces:
    if picture.encoded is not None or picture_bytes(picture) <= INLINE_BYTES:
        return base64_pieces(picture)
    return await to_thread.run_sync(base64_pieces, picture)


async def _send(send: Send, status: int, headers: dict[str, str], body: Pieces) -> None:
    headers = {
        "content-type": "application/json",
        "content-length": str(size_of(body)),
        # Compressing a picture's base64 gains a quarter and costs half a second of CPU at 8 MB.
        "cache-control": "no-store, no-transform",
        **headers,
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    for chunk in chunks(body):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _call(request: Request) -> Call:
    given = request.headers.get("x-request-id", "")
    return Call(
        request_id=given if _REQUEST_ID.match(given) else f"req_{uuid.uuid4().hex}",
        trace_id=parse_trace_id(request.headers.get("traceparent")),
        door="asgi",
    )


def _known(model: str | None) -> str | None:
    """Return the canonical name for telemetry, None for anything a client made up."""
    try:
        variant = parse_variant(model) if model else None
    except ModelNotFoundError:
        return None
    return variant.name if variant else None


def _not_served(model: str | None) -> ModelNotFoundError:
    served = ", ".join(family.name for family in FAMILIES)
    named = f"The model '{model[:200]}'" if model else "This model"
    return ModelNotFoundError(f"{named} is not served here. Served: {served}, and their variants.", param="model")
