"""What is sent back, in one place: errors in OpenAI's shape, small documents, pictures in chunks."""

from __future__ import annotations

import re
import uuid
from typing import Any

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.types import Send

from sfumato.errors import ImageError, UnauthorizedError
from sfumato.images.request import ImageResult, Picture
from sfumato.telemetry.observer import Call
from sfumato.wire.headers import error_headers, parse_trace_id, result_headers
from sfumato.wire.openai_images import render_error, render_response
from sfumato.wire.payload import INLINE_BYTES, Pieces, base64_pieces, chunks, picture_bytes, size_of

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def read_call(request: Request) -> Call:
    """Return where a request came from: the client's own request id where it can be one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return Call(
        request_id=given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}",
        trace_id=parse_trace_id(request.headers.get("traceparent")),
        door="asgi",
    )


async def send_error(send: Send, error: ImageError, *, request_id: str) -> None:
    """Answer with *error* in OpenAI's shape."""
    body = msgspec.json.encode(render_error(error, request_id=request_id))
    headers = error_headers(error, request_id=request_id)
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    await _send(send, error.status, headers, (body,))


async def send_json(send: Send, status: int, document: Any, **headers: str) -> None:
    """Answer with a small JSON document; underscores in the names of *headers* stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    await _send(send, status, named, (msgspec.json.encode(document),))


async def send_result(send: Send, result: ImageResult, *, request_id: str) -> None:
    """Answer with pictures, spliced into the answer as they are."""
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
