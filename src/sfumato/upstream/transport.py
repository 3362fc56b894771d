"""The one HTTP client: bodies streamed both ways, reads capped, faults translated in one place."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import cast

import aiohttp
import httpx
from anyio import to_thread

from sfumato.errors import DeadlineError, NetworkError, UpstreamFailureError
from sfumato.upstream.accounts import Account
from sfumato.upstream.aiohttp_transport import AiohttpTransport
from sfumato.upstream.spool import Spool
from sfumato.wire.gemini import Answer, parse_response
from sfumato.wire.gemini_errors import parse_error
from sfumato.wire.lifter import Lifted, Lifter, LiftError
from sfumato.wire.payload import INLINE_BYTES, Pieces, chunks, size_of

_ERROR_BODY_BYTES = 256 * 1024
_SLICE_BYTES = 16 * 1024
# How long an answer that has begun may pause.
STALL_SECONDS = 30.0
# An injected client's transport may let aiohttp's own errors through, as httpx-aiohttp 0.2.0 does.
_CONNECTION_FAULTS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, aiohttp.ClientError, OSError)


def create_http_client(*, connect_timeout_seconds: float) -> httpx.AsyncClient:
    """Create the client for upstream calls, on aiohttp's connections.

    Only the connect timeout is set here: a picture may take minutes, and every attempt has a bound of its own.
    """
    timeout = httpx.Timeout(None, connect=connect_timeout_seconds)
    return _Client(transport=AiohttpTransport(), timeout=timeout, follow_redirects=False, trust_env=False)


class _NoCookies(httpx.Cookies):
    """Cookies of nobody: what one account is given must not go out with another's request."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Keep none, nor look for them, which takes 10 µs (2026-11-22)."""


class _Client(httpx.AsyncClient):
    """httpx's client without a memory."""

    _none = _NoCookies()

    @property
    def cookies(self) -> httpx.Cookies:
        """Return no cookies."""
        return self._none

    @cookies.setter
    def cookies(self, _: object) -> None:
        raise AttributeError("this client keeps no cookies")


class GeminiTransport:
    """Post generateContent requests and read their answers.

    Args:
        client: Any httpx client; the caller owns and closes it.
        max_response_bytes: An answer above this is refused while it is read.
        spool: Bounds what all answers hold in memory; one of its own by default.
        stall_seconds: How long an answer that has begun may pause.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        max_response_bytes: int,
        spool: Spool | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._client = client
        self._max_response_bytes = max_response_bytes
        self._spool = spool or Spool()
        self._stall_seconds = stall_seconds

    async def generate(
        self, account: Account, model: str, body: Pieces, *, timeout_seconds: float | None = None
    ) -> Lifted:
        """Send *body* to the model's ``generateContent`` and return the body of its 200 answer.

        Args:
            account: Whose, and where.
            model: Upstream's name of the model.
            body: The request, in pieces.
            timeout_seconds: Bound from connecting to the last byte, which Google is told too.

        Raises:
            DeadlineError: Google said so, the bound passed (``attempt_timeout``), or the answer paused (``stalled``).
            ImageError: Google's error, or a fault on the way.
        """
        bound = _Bound(timeout_seconds, self._stall_seconds)
        async with bound:
            headers = {
                **await account.credentials.headers(),
                "content-type": "application/json",
                "content-length": str(size_of(body)),
                # Base64 of a picture gains a quarter from gzip and costs half a second of CPU at 8 MB.
                "accept-encoding": "identity",
            }
            if timeout_seconds is not None:
                # Google's own name: its SDKs send their timeout so, in whole seconds (seen 2026-11).
                headers["x-server-timeout"] = str(math.ceil(timeout_seconds))
            with _faults():
                async with self._client.stream(
                    "POST", _parse_url(account.url(model)), content=_stream(body), headers=headers
                ) as response:
                    bound.progress()
                    if response.status_code != 200:
                        content = await self._read_error(response, bound)
                        raise parse_error(response.status_code, content, response.headers)
                    return await self._read(response, bound)

    async def _read(self, response: httpx.Response, bound: _Bound) -> Lifted:
        lifter = Lifter()
        size = 0
        with self._spool.tab() as tab:
            async with aclosing(_chunks_of(response)) as chunks_read:
                async for chunk in chunks_read:
                    size += len(chunk)
                    if size > self._max_response_bytes:
                        raise _too_large()
                    try:
                        lifter.feed(chunk)
                    except LiftError:
                        raise _too_large() from None
                    await tab.fed(len(chunk), lifter)
                    bound.progress()
            return tab.settle(lifter.finish())

    async def _read_error(self, response: httpx.Response, bound: _Bound) -> bytearray:
        body = bytearray()
        async with aclosing(_chunks_of(response)) as chunks_read:
            async for chunk in chunks_read:
                body += chunk
                bound.progress()
                if len(body) > _ERROR_BODY_BYTES:
                    break
        return body[:_ERROR_BODY_BYTES]


async def read_answer(reply: Lifted) -> Answer:
    """Return what `parse_response` reads in *reply*; in a thread where texts are long enough to hold the event loop.

    Raises:
        ImageError: As `parse_response` raises it.
    """
    if reply.texts_bytes <= INLINE_BYTES:
        return parse_response(reply)
    return await to_thread.run_sync(parse_response, reply)


class _Bound:
    """Time for one attempt, and for each pause of its answer."""

    def __init__(self, timeout_seconds: float | None, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._clock = asyncio.get_running_loop().time
        self._end = math.inf if timeout_seconds is None else self._clock() + timeout_seconds
        self._scope = asyncio.timeout_at(self._end if timeout_seconds is not None else None)
        self._next = -math.inf

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._scope.__aexit__(kind, error, traceback)
        except TimeoutError:
            passed = self._scope.when() == self._end
            raise DeadlineError(
                "Gemini did not finish in time. Send the request again."
                if passed
                else "Gemini stopped answering. Send the request again.",
                reason="attempt_timeout" if passed else "stalled",
            ) from None

    def progress(self) -> None:
        """Take note that the answer goes on."""
        now = self._clock()
        # A large answer comes in hundreds of chunks; a new timer for each costs more than it tells.
        if now >= self._next:
            self._next = now + self._stall_seconds / 64
            self._scope.reschedule(min(self._end, now + self._stall_seconds))


# Few, and costly to parse.
_parse_url = functools.lru_cache(maxsize=256)(httpx.URL)


def _too_large() -> UpstreamFailureError:
    return UpstreamFailureError("Gemini's answer is larger than this installation accepts.", retryable=False)


def _chunks_of(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    # Both are asynchronous generators; httpx declares less.
    if "content-encoding" in response.headers:
        # Somebody between here and Google may compress all the same.
        response.stream = _Slices(cast("httpx.AsyncByteStream", response.stream))
        return cast("AsyncGenerator[bytes, None]", response.aiter_bytes())
    return cast("AsyncGenerator[bytes, None]", aiter(cast("httpx.AsyncByteStream", response.stream)))


class _Slices(httpx.AsyncByteStream):
    """A body in small parts: a decoder makes up to a thousand times as much of each before anybody can count it."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            for start in range(0, len(chunk), _SLICE_BYTES):
                yield chunk[start : start + _SLICE_BYTES]

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _stream(body: Pieces) -> AsyncIterator[bytes]:
    for chunk in chunks(body):
        yield chunk


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except _CONNECTION_FAULTS as error:
        stalled = isinstance(error, httpx.TimeoutException | TimeoutError)
        # Nothing was sent yet; and httpx-aiohttp 0.2.0 calls every lost connection by this name.
        if stalled and not isinstance(error, httpx.ConnectTimeout):
            raise DeadlineError("Gemini stopped answering. Send the request again.", reason=_name(error)) from None
        raise NetworkError(
            "The connection to Gemini failed or broke. Send the request again.", reason=_name(error)
        ) from None


def _name(error: Exception) -> str:
    return type(error.__cause__ or error).__name__
