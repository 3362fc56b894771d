"""What is sent back, in one place: errors in OpenAI's shape, small documents, pictures in chunks."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.types import Send

from sfumato.errors import ImageError, UnauthorizedError
from sfumato.images.request import ImageResult
from sfumato.telemetry.observer import Call
from sfumato.wire.headers import error_headers, parse_trace_id, result_headers
from sfumato.wire.openai_images import render_error, render_response
from sfumato.wire.payload import Pieces, base64_pieces, size_of, spans

# What a slow client makes this process hold: one chunk that waits, and uvicorn's buffer of 64 KB and a chunk. Larger
# ones are hardly faster (256 KB: 5-15 % at 8 MB, 2026-11-23).
_CHUNK_BYTES = 64 * 1024
# Gemini's answers come in pieces of about 250 KB.
_WHOLE_BYTES = 512 * 1024
# Sending to a fast client never waits; others get their turn after so much (0.2 ms).
_TURN_BYTES = 256 * 1024
# Compressing a picture's base64 gains a quarter and costs half a second of CPU at 8 MB.
CACHE_CONTROL = "no-store, no-transform"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def new_request_id() -> str:
    """Return an id for a request that brings none."""
    return f"req_{uuid.uuid4().hex}"


def read_call(request: Request) -> Call:
    """Return where a request came from: the client's own request id where it can be one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return Call(
        request_id=given if _REQUEST_ID.fullmatch(given) else new_request_id(),
        trace_id=parse_trace_id(request.headers.get("traceparent")),
        door="asgi",
        idempotency_key=request.headers.get("idempotency-key"),
        traceparent=request.headers.get("traceparent"),
        tracestate=request.headers.get("tracestate"),
    )


async def send_error(send: Send, error: ImageError, *, request_id: str) -> None:
    """Answer with *error* in OpenAI's shape."""
    headers, body = write_error(error, request_id=request_id)
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    await _send(send, error.status, headers, (body,))


def write_error(error: ImageError, *, request_id: str) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an answer with *error* in OpenAI's shape."""
    body = msgspec.json.encode(render_error(error, request_id=request_id))
    return error_headers(error, request_id=request_id), body


async def send_json(send: Send, status: int, document: Any, **headers: str) -> None:
    """Answer with a small JSON document; underscores in the names of *headers* stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    await _send(send, status, named, (msgspec.json.encode(document),))


async def send_result(send: Send, result: ImageResult, *, request_id: str) -> None:
    """Answer with pictures, spliced into the answer as they are."""
    encoded = [base64_pieces(image.picture) for image in result.images]
    headers = result_headers(result, request_id=request_id)
    await _send(send, 200, headers, render_response(result, encoded))


async def stream(pieces: Pieces, chunk_bytes: int = _CHUNK_BYTES) -> AsyncGenerator[bytes]:
    """Iterate over *pieces* in chunks, each made when it is asked for; what waits for a disk waits in a thread.

    Raises:
        OSError: A picture's file cannot be read any more.
    """
    turn = 0
    for span in spans(pieces, chunk_bytes, whole_bytes=_WHOLE_BYTES):
        chunk = span.read_now()
        if chunk is None:
            chunk = await to_thread.run_sync(span.read)
        yield chunk
        turn += len(chunk)
        if turn >= _TURN_BYTES:
            turn = 0
            await asyncio.sleep(0)


async def send_body(send: Send, body: Pieces) -> None:
    """Send a body in chunks, behind the start of its answer.

    Raises:
        OSError: A picture's file cannot be read any more.
    """
    left = size_of(body)
    async with contextlib.aclosing(stream(body)) as sent:
        async for chunk in sent:
            left -= len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})


async def _send(send: Send, status: int, headers: dict[str, str], body: Pieces) -> None:
    headers = {
        "content-type": "application/json",
        "content-length": str(size_of(body)),
        "cache-control": CACHE_CONTROL,
        **headers,
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send_body(send, body)
