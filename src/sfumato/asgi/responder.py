"""One request: bounded read, parse, client, streamed answer."""

from __future__ import annotations

import contextlib
import dataclasses
import logging

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sfumato.asgi.answers import read_call, send_error, send_result
from sfumato.asgi.auth import Authorize, admit
from sfumato.asgi.body import BufferedBody, ClientDisconnectedError, Form, parse_body, until_gone
from sfumato.asgi.routes import ImageRoute
from sfumato.engine.client import shutting_down
from sfumato.engine.idempotency import HEADER
from sfumato.errors import ImageError, InternalError, InvalidParameterError, ModelNotFoundError
from sfumato.images.resolution import ImageWish
from sfumato.images.variants import Variant, parse_variant, require_variant
from sfumato.runtime import Runtime
from sfumato.settings import MEGABYTE
from sfumato.wire.headers import parse_cache_control, stricter
from sfumato.wire.openai_images import parse_request

_log = logging.getLogger("sfumato")
# Enough of a body to find its model's name in, for a caller who may not call.
_HEAD_BYTES = 64 * 1024


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
        self._call = read_call(self._request)
        self._body = BufferedBody(receive)
        self._tenant: str | None = None
        self._variant: Variant | None = None
        # Asked when the request arrives: what was on its way by then is served, however slowly its body comes.
        self._late = door.runtime.draining

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
            await self._refuse(InternalError())
            return
        if wish is not None:
            # Read and understood: it need not be held for as long as a picture takes.
            self._body.messages.clear()
            await self._generate(wish)
        elif self._door.fallback is not None:
            await self._door.fallback(self._scope, self._body.replay(), self._send)

    async def _refuse(self, error: ImageError) -> None:
        self._door.runtime.client.refuse(
            error,
            call=self._call,
            operation=self._route.operation.value,
            model=self._variant.name if self._variant else None,
            tenant=self._tenant,
        )
        await send_error(self._send, error, request_id=self._call.request_id)

    async def _generate(self, wish: ImageWish) -> None:
        if self._late:
            await self._refuse(shutting_down())
            return
        with contextlib.suppress(ClientDisconnectedError):
            # What waits for a client that left would only keep others waiting.
            await until_gone(self._answer(wish), self._body.receive)

    async def _answer(self, wish: ImageWish) -> None:
        client, request_id = self._door.runtime.client, self._call.request_id
        try:
            result = await client.generate(wish, call=self._call)
        except ImageError as error:
            await send_error(self._send, error, request_id=request_id)
            return
        # On the same task, so that between the two there is no moment at which a picture is nobody's.
        try:
            await send_result(self._send, result, request_id=request_id)
        except BaseException as error:
            # Whatever ends it, also a server that ends the requests of clients that left.
            client.keep(result, call=self._call)
            if not isinstance(error, OSError):
                raise

    async def _read_wish(self) -> ImageWish | None:
        """Return what the client asks, None when its model is not ours.

        Raises:
            ImageError: The caller may not call, or the request cannot be served.
            ClientDisconnectedError: The client went away.
        """
        door = self._door
        try:
            self._tenant = await admit(door.authorize, self._request)
            self._call = dataclasses.replace(self._call, caller=self._tenant)
        except ImageError as denied:
            if await self._is_ours_to_deny():
                raise denied from None
            return None
        await self._body.read(door.max_bytes)
        form, model = await self._understand()
        self._variant = parse_variant(model) if model else None
        if self._variant is None and door.fallback is not None:
            return None
        if isinstance(form, ImageError):
            raise form
        variant = self._variant or require_variant(model)
        if len(self._request.headers.getlist(HEADER)) > 1:
            raise InvalidParameterError(f"'{HEADER}' was sent more than once: send one.", param=HEADER)
        wish = parse_request(
            self._route.operation,
            variant,
            form.fields,
            files=form.images,
            mask=form.mask,
            drop_unknown=door.runtime.settings.drop_params,
            tenant=self._tenant,
        )
        asked = parse_cache_control(self._request.headers.get("cache-control"))
        return dataclasses.replace(wish, cache_control=stricter(wish.cache_control, asked))

    async def _is_ours_to_deny(self) -> bool:
        """Tell whose request a refused caller's is, reading no more of it than that takes."""
        if self._door.fallback is None:
            return True
        model = self._route.model
        if model is None:
            await self._body.read(_HEAD_BYTES)
            model = self._body.peek_model()
        if model is None and not self._body.complete:
            await self._body.read(self._door.max_bytes)
        if model is None:
            _, model = await self._understand()
        try:
            return model is not None and parse_variant(model) is not None
        except ModelNotFoundError:
            return True

    async def _understand(self) -> tuple[Form | ImageError, str | None]:
        """Return the form, or why there is none, and the model's name as far as it can be told."""
        named, default = self._route.model, self._door.default_model
        try:
            form = await parse_body(self._body, self._request.headers, max_bytes=self._door.max_bytes)
        except ImageError as error:
            return error, named or self._body.peek_model() or default
        model = named or form.fields.get("model") or default
        if model is not None and not _is_text(model):
            return InvalidParameterError("Invalid value for 'model': expected a string.", param="model"), default
        return form, model


def _is_text(value: object) -> bool:
    # Half a surrogate pair, which some encodings let through, could not be answered with.
    return isinstance(value, str) and value.isprintable()
