"""The one HTTP client: bodies streamed both ways, reads capped, faults translated in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from sfumato.errors import DeadlineError, NetworkError, UpstreamFailureError
from sfumato.upstream.accounts import Account
from sfumato.wire.gemini_errors import parse_error
from sfumato.wire.payload import Pieces, chunks, size_of

_ERROR_BODY_BYTES = 256 * 1024
# httpx-aiohttp 0.2.0 lets some of aiohttp's own errors through (a malformed status line, a closed transport).
_CONNECTION_FAULTS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, aiohttp.ClientError, OSError)


def create_http_client(*, connect_timeout_seconds: float) -> httpx.AsyncClient:
    """Create the client for upstream calls, on aiohttp's connections.

    httpx's own pool collapses with many large bodies in flight (measured 2026-11-21: none of 32 parallel 20 MB
    answers finished within 5 s). Only the connect timeout is set here: a picture may take minutes, and every request
    has a deadline of its own.
    """
    timeout = httpx.Timeout(None, connect=connect_timeout_seconds)
    return httpx.AsyncClient(transport=AiohttpTransport(), timeout=timeout, follow_redirects=False, trust_env=False)


class GeminiTransport:
    """Post generateContent requests and read their answers.

    Args:
        client: Any httpx client; the caller owns and closes it.
        max_response_bytes: An answer above this is refused while it is read.
    """

    def __init__(self, client: httpx.AsyncClient, *, max_response_bytes: int) -> None:
        self._client = client
        self._max_response_bytes = max_response_bytes

    async def generate(self, account: Account, model: str, body: Pieces) -> bytearray:
        """Send *body* to the model's ``generateContent`` and return the body of its 200 answer.

        Raises:
            ImageError: Google's error, or a fault on the way.
        """
        headers = {
            **await account.credentials.headers(),
            "content-type": "application/json",
            "content-length": str(size_of(body)),
            # Base64 of a picture gains a quarter from gzip and costs half a second of CPU at 8 MB.
            "accept-encoding": "identity",
        }
        with _faults():
            async with self._client.stream(
                "POST", account.url(model), content=_stream(body), headers=headers
            ) as response:
                if response.status_code != 200:
                    raise parse_error(response.status_code, await self._read(response, _ERROR_BODY_BYTES, cut=True))
                return await self._read(response, self._max_response_bytes)

    async def _read(self, response: httpx.Response, limit: int, *, cut: bool = False) -> bytearray:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > limit:
                if cut:
                    return body[:limit]
                raise UpstreamFailureError("Gemini's answer is larger than this installation accepts.", retryable=False)
        return body


async def _stream(body: Pieces) -> AsyncIterator[bytes]:
    for chunk in chunks(body):
        yield chunk


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except _CONNECTION_FAULTS as error:
        stalled = isinstance(error, httpx.TimeoutException | TimeoutError)
        # httpx-aiohttp 0.2.0 calls every lost connection a ConnectTimeout, so that name tells of no stall.
        if stalled and not isinstance(error, httpx.ConnectTimeout):
            raise DeadlineError("Gemini stopped answering. Send the request again.", reason=_name(error)) from None
        raise NetworkError(
            "The connection to Gemini failed or broke. Send the request again.", reason=_name(error)
        ) from None


def _name(error: Exception) -> str:
    return type(error.__cause__ or error).__name__
