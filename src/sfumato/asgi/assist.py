"""One request to a gateway that answers itself, assisted: what its answer lost on the way is put back as it leaves."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.asgi.answers import CACHE_CONTROL, new_request_id, send_body, write_error
from sfumato.asgi.body import ClientDisconnectedError, until_gone
from sfumato.asgi.exchange import Attempt, Exchange, exchanging
from sfumato.asgi.splicing import UnboundTokenError, splice
from sfumato.errors import ImageError, InternalError
from sfumato.wire.payload import Pieces, size_of

_log = logging.getLogger("sfumato")
# The gateway knows its own prefixes; where an exchange is opened for nothing, nothing happens.
_IMAGES = re.compile(r".*/images/(?:generations|edits)/?")
_UNBOUND = "The gateway lost the pictures of this answer. Tell the operator."


def makes_pictures(scope: Scope) -> bool:
    """Tell whether a gateway may make pictures for this request."""
    return scope["method"] == "POST" and _IMAGES.fullmatch(scope["path"]) is not None


class AssistedRequest:
    """Let the gateway answer, and complete its answer where one of our handlers made it.

    Args:
        app: The gateway.
        scope, receive, send: The request, as ASGI has it.
    """

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        self._body: list[bytes] = []
        self._body_received = False
        self._done = False

    async def respond(self) -> None:
        """Answer."""
        with exchanging() as exchange:

            async def take(message: Message) -> None:
                await self._take(exchange, message)

            await self._app(_uncompressed(self._scope), self._watched_receive, take)

    async def _watched_receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self._body_received = True
        return message

    async def _take(self, exchange: Exchange, message: Message) -> None:
        """Take what the gateway sends; an answer that is none of ours goes on at once."""
        if message["type"] == "http.response.start" and exchange.is_used:
            if _is_plain_json(message):
                self._start = message
                return
            if exchange.is_late:
                _log.error("The gateway's answer is no plain JSON: its pictures cannot be put in")
                await self._fail(message, exchange.settled, InternalError(_UNBOUND))
                return
        if self._done:
            return
        if self._start is None:
            await self._send(message)
            if message["type"] == "http.response.body" and not message.get("more_body") and exchange.settled:
                exchange.settled.deliver()
        elif message["type"] == "http.response.body":
            self._body.append(message.get("body", b""))
            if not message.get("more_body"):
                self._done = True
                # Usually one chunk, and maybe another provider's picture: not copied for nothing.
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                await self._finish(exchange, self._start, body)

    async def _finish(self, exchange: Exchange, start: Message, body: bytes) -> None:
        answering: list[Attempt] = []

        def find(token: str) -> Pieces | None:
            found = exchange.find(token)
            if found is None:
                return None
            answering.append(found[0])
            return found[1]

        try:
            pieces = splice(body, find)
        except UnboundTokenError:
            _log.error("The gateway's answer has a picture's token where no picture can be put in")
            await self._fail(start, answering[0] if answering else exchange.settled, InternalError(_UNBOUND))
            return
        attempt = answering[0] if answering else exchange.settled
        if attempt is None:
            await self._pass_on(start, body)
        elif attempt.error is None:
            await self._deliver(start, attempt, pieces)
        elif start["status"] == attempt.seen_status and attempt.error.code.encode() in body:
            await self._fail(start, attempt, attempt.error)
        else:
            # What another callback made of the error is the operator's wish.
            await self._pass_on(start, body)

    async def _pass_on(self, start: Message, body: bytes) -> None:
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    async def _deliver(self, start: Message, attempt: Attempt, pieces: Pieces) -> None:
        """Send an answer with pictures."""
        headers = {"cache-control": CACHE_CONTROL, **attempt.headers}
        sending = self._stream(_completed(start, start["status"], headers, size_of(pieces)), pieces)
        try:
            await (until_gone(sending, self._receive) if self._body_received else sending)
        except ClientDisconnectedError:
            return
        except OSError as error:
            # An answer that ends early is all that can be said of it now.
            _log.warning("Request %s: a picture could not be read (%s)", attempt.request_id, type(error).__name__)
            return
        attempt.deliver()

    async def _stream(self, start: Message, pieces: Pieces) -> None:
        await self._send(start)
        await send_body(self._send, pieces)

    async def _fail(self, start: Message, attempt: Attempt | None, error: ImageError) -> None:
        """Answer with *error* in OpenAI's shape, in place of what the gateway says."""
        self._done = True
        request_id = new_request_id() if attempt is None else attempt.request_id
        told, body = write_error(error, request_id=request_id)
        headers = {"content-type": "application/json", "cache-control": CACHE_CONTROL, **told}
        await self._send(_completed(start, error.status, headers, len(body)))
        await self._send({"type": "http.response.body", "body": body})


def _completed(start: Message, status: int, headers: Mapping[str, str], length: int) -> Message:
    """Return the start of an answer with our headers over the gateway's."""
    found = MutableHeaders(raw=list(start.get("headers", ())))
    del found["content-encoding"]
    for name, value in headers.items():
        found[name] = value
    found["content-length"] = str(length)
    return {**start, "status": status, "headers": found.raw}


def _uncompressed(scope: Scope) -> Scope:
    """Return the request without the wish for compression: pictures are put into plain JSON."""
    kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
    return {**scope, "headers": kept}


def _is_plain_json(start: Message) -> bool:
    headers = Headers(raw=list(start.get("headers", ())))
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return content_type == "application/json" and "content-encoding" not in headers
