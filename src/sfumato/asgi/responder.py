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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageDoor:
    """What every request to an app's image routes has in common.

    Attributes:
        runtime: Gives the client.
        authorize: Decides who may call.
        fallback: Whoever answers for models that are not ours; None answers 404 itself.
        default_model: The model of a request that names none; None hands such requests on.
    """

    runtime: Runtime
    authorize: Authorize
    fallback: ASGIApp | None
    default_model: str | None

    @property
    def max_bytes(self) -> int:
        """Return the bound of a request's body."""
        return int(self.runtime.settings.max_request_mb * MEGABYTE)


class ImageResponder:
    """Answer one image request, or hand it on when its model is not ours.

    Args:
        door: What it has in common with others.
        route: What its path means.
        scope, receive, send: The request, as ASGI has it.
    """

    def __init__(self, door: ImageDoor, route: ImageRoute, scope: Scope, receive: Receive, send: Send) -> None:
        self._door = door
        self._route = route
        self._scope = scope
        self._send = send
        self._request = Request(scope)
        self._call = _call(self._request)
        self._body = BufferedBody(receive)
        self._tenant: str | None = None

    async def respond(self) -> None:
        """Answer; every error is answered in OpenAI's shape."""
        try:
            wish = await self._read_wish()
        except ClientDisconnectedError:
            return
        except ImageError as error:
            await self._refuse(error)
            return
        except Exception:  # noqa: BLE001  # every request is answered; the traceback is the log's
            _log.exception("Request %s failed before it was understood", self._call.request_id)
            await self._refuse(InternalError("Something failed here that should not. Tell the operator."))
            return
        if wish is not None:
            await self._generate(wish)
        elif self._door.fallback is not None:
            await self._door.fallback(self._scope, self._body.replay(), self._send)

    async def _refuse(self, error: ImageError) -> None:
        self._door.runtime.client.refuse(
            error,
            call=self._call,
            operation=self._route.operation.value,
            model=_known(self._route.model or self._body.peek_model()),
            tenant=self._tenant,
        )
        await send_error(self._send, error, request_id=self._call.request_id)

    async def _generate(self, wish: ImageWish) -> None:
        try:
            result = await self._door.runtime.client.generate(wish, call=self._call)
        except ImageError as error:
            await send_error(self._send, error, request_id=self._call.request_id)
        else:
            await _send_result(self._send, result, request_id=self._call.request_id)

    async def _read_wish(self) -> ImageWish | None:
        """Return what the client asks, None when its model is not ours.

        Raises:
            ImageError: The caller may not call, or the request cannot be served.
            ClientDisconnectedError: The client went away.
        """
        door, headers = self._door, self._request.headers
        denied = await self._denied()
        # Nobody else answers here, so nothing is read for a caller who may not call.
        if denied and door.fallback is None:
            raise denied
        await self._body.read(door.max_bytes)
        form, model = await self._understand()
        try:
            variant = parse_variant(model) if model else None
        except ModelNotFoundError as error:
            raise denied or error from None
        if variant is None and door.fallback is not None:
            return None
        if denied:
            raise denied
        if isinstance(form, ImageError):
            raise form
        if variant is None:
            raise _not_served(model)
        wish = parse_request(
            self._route.operation,
            variant,
            form.fields,
            files=form.images,
            mask=form.mask,
            drop_unknown=door.runtime.settings.drop_params,
            tenant=self._tenant,
        )
        asked = parse_cache_control(headers.get("cache-control"))
        return dataclasses.replace(wish, cache_control=stricter(wish.cache_control, asked))

    async def _denied(self) -> ImageError | None:
        """Learn whose request it is; return why the caller may not call, None when it may."""
        try:
            self._tenant = await self._door.authorize(self._request)
        except ImageError as error:
            return error
        except Exception as error:  # noqa: BLE001  # whatever a host's own check raises is a refusal, never an entry
            _log.warning("authorize raised %s: the request is refused", type(error).__name__)
            return UnauthorizedError("This request was not let in. Check the API key.")
        return None

    async def _understand(self) -> tuple[Form | ImageError, str | None]:
        """Return the form, or why there is none, and the model's name as far as it can be told."""
        named, default = self._route.model, self._door.default_model
        try:
            form = await parse_body(self._body, self._request.headers, max_bytes=self._door.max_bytes)
        except ImageError as error:
            return error, named or self._body.peek_model() or default
        model = named or form.fields.get("model") or default
        if model is not None and not isinstance(model, str):
            return InvalidParameterError("Invalid value for 'model': expected a string.", param="model"), default
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
