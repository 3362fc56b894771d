"""httpx's face on aiohttp's connections, with few steps between the socket and whoever reads.

httpx's own pool collapses with many large bodies in flight: of 32 parallel answers of 20 MB none ended within 5 s. The
package httpx-aiohttp hands bodies on in slices of 16 KB, through three generators. This one passes chunks on as they
came from the socket (measured 2026-11, ``tests/benchmarks/lifting.py``).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import aiohttp
import httpx
from yarl import URL

from sfumato.errors import ConfigurationError
from sfumato.upstream.direct_body import DirectBody

# Reading pauses while twice this waits to be taken. A piece from the socket (up to 256 KB) then comes as it is, and not
# joined to others: with 256 KB here pieces of 660 KB came, to be copied again when they are sent.
_READ_BYTES = 64 * 1024
# Most specific first.
_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol),
    (aiohttp.ClientError, httpx.ReadError),
    (TimeoutError, httpx.ReadTimeout),
    (OSError, httpx.ReadError),
)
_KINDS = tuple(kind for kind, _ in _ERRORS)


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Send httpx's requests through an aiohttp session, which the first request opens.

    Bodies are not decompressed here; there is no bound on connections but what bounds the requests.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* and return the answer's head, its body to be read.

        Raises:
            httpx.TransportError: Whatever went wrong on the way.
            ConfigurationError: ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` name no certificates.
        """
        session = self._opened()
        timeout = request.extensions.get("timeout", {})
        headers = [(name, value) for name, value in request.headers.multi_items() if name != "transfer-encoding"]
        with _httpx_errors():
            response = await session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=headers,
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
                data=_body(request),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=timeout.get("connect"), sock_read=timeout.get("read")),
            )
        return httpx.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Body(response),
            extensions={
                "http_version": b"HTTP/1.1",
                "reason_phrase": (response.reason or "").encode("latin-1", "replace"),
            },
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_connector(limit=0, ssl=_trusted()),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_READ_BYTES,
                trust_env=False,
            )
        return self._session


class _Body(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """An answer's body; its connection goes back to the pool when all of it was read and is closed otherwise."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._direct = response.content if isinstance(response.content, DirectBody) else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._direct is not None:
            try:
                return await anext(self._direct)
            except _KINDS as error:
                raise _translate(error) from error
        with _httpx_errors():
            if chunk := await self._response.content.readany():
                return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        with _httpx_errors():
            # Also ends the task that may still be sending the request.
            self._response.release()
            await self._response.wait_for_close()


def _trusted() -> ssl.SSLContext:
    """Return what servers are trusted by: certifi's certificates, or those that the environment names."""
    try:
        return httpx.create_ssl_context()
    except OSError:
        msg = "SSL_CERT_FILE or SSL_CERT_DIR names no readable certificates. Correct or unset it."
        raise ConfigurationError(msg) from None


def _connector(**options: Any) -> aiohttp.TCPConnector:
    try:
        from sfumato.upstream.aiohttp_connection import Connector  # noqa: PLC0415  # it may not be had
    except ImportError:
        # An aiohttp to come may keep its connections elsewhere.
        return aiohttp.TCPConnector(**options)
    return Connector(**options)


def _body(request: httpx.Request) -> bytes | httpx.AsyncByteStream | None:
    try:
        return request.content or None
    except httpx.RequestNotRead:
        return cast("httpx.AsyncByteStream", request.stream)


@contextmanager
def _httpx_errors() -> Iterator[None]:
    try:
        yield
    except _KINDS as error:
        raise _translate(error) from error


def _translate(error: Exception) -> httpx.TransportError:
    return next(translated for kind, translated in _ERRORS if isinstance(error, kind))(str(error))
