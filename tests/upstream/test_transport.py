from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pybase64
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image

from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.errors import (
    DeadlineError,
    ImageError,
    NetworkError,
    QuotaExhaustedError,
    RateLimitedError,
    ServiceUnavailableError,
    UpstreamAuthError,
    UpstreamFailureError,
)
from sfumato.upstream.accounts import Account
from sfumato.upstream.spool import Spool
from sfumato.upstream.transport import GeminiTransport, create_http_client, read_answer
from sfumato.wire.gemini import parse_response
from sfumato.wire.lifter import Lifted, lift
from sfumato.wire.payload import join

pytestmark = pytest.mark.anyio

KEY = "AIza-canary-key"
MODEL = "gemini-3-pro-image"
BASE = "http://gemini.test/prefix"
ACCOUNT = Account.at("mine", KEY, BASE, "v1beta")
BODY = (
    b'{"contents":[{"role":"user","parts":[{"text":"',
    memoryview(b"a cat"),
    b'"}]}],"generationConfig":{"imageConfig":{"aspectRatio":"16:9","imageSize":"1K"}}}',
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def all_subclasses(kind: type[BaseException]) -> list[type[BaseException]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in all_subclasses(child))]


HTTPX_ERRORS = [
    kind
    for root in (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)
    for kind in all_subclasses(root)
    if kind.__module__.startswith("httpx")
]
STALLS = {"TimeoutException", "ReadTimeout", "WriteTimeout", "PoolTimeout"}


def made(kind: type[BaseException]) -> BaseException:
    """Build an error of whatever constructor."""
    error = kind.__new__(kind)
    Exception.__init__(error, f"{kind.__name__} with {KEY}")
    error.__dict__.setdefault("_request", None)
    return error


async def generate(
    handler: Callable[[httpx.Request], Any], *, max_response_bytes: int = 1000, account: Account = ACCOUNT
) -> Lifted:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler), follow_redirects=False) as client:
        transport = GeminiTransport(client, max_response_bytes=max_response_bytes)
        return await transport.generate(account, MODEL, BODY)


async def failed(handler: Callable[[httpx.Request], Any], **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        await generate(handler, **options)
    assert KEY not in repr(vars(caught.value))
    return caught.value


class Broken(httpx.AsyncByteStream):
    """A body that fails after its first bytes."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"candidates":'
        raise self._error


# --- the request ---


async def test_the_body_goes_out_whole_with_its_length_and_the_key_in_its_header_only() -> None:
    seen: list[httpx.Request] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        await request.aread()
        return httpx.Response(200, content=b"{}")

    assert await generate(handler) == lift(b"{}")
    (request,) = seen
    assert str(request.url) == f"{BASE}/v1beta/models/{MODEL}:generateContent"
    assert request.method == "POST"
    assert request.content == b"".join(BODY)
    assert request.headers["content-length"] == str(len(request.content))
    assert "transfer-encoding" not in request.headers
    assert request.headers["x-goog-api-key"] == KEY
    assert [name for name, value in request.headers.items() if KEY in value] == ["x-goog-api-key"]
    # A bearer beside the key is a 401.
    assert "authorization" not in request.headers
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-type"] == "application/json"


async def test_a_picture_comes_from_the_emulator() -> None:
    app = create_emulator(EmulatorOptions(api_keys=(KEY,)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        transport = GeminiTransport(client, max_response_bytes=10_000_000)
        account = Account.at("mine", KEY, "http://emulator/v1beta", "v1")
        answer = parse_response(await transport.generate(account, MODEL, BODY))
    picture = Image.open(io.BytesIO(pybase64.b64decode(join(answer.encoded))))
    assert (picture.format, picture.size) == ("JPEG", (1376, 768))
    assert answer.usage.output_image_tokens == 1120


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        ("429:41", RateLimitedError, "per_minute"),
        ("429-capacity", RateLimitedError, "shared_capacity"),
        ("429-day", QuotaExhaustedError, "per_day"),
        ("429-billing", QuotaExhaustedError, "billing"),
        ("429-free-tier", QuotaExhaustedError, "billing"),
        ("503:7", ServiceUnavailableError, "UNAVAILABLE"),
        ("500", UpstreamFailureError, "INTERNAL"),
        ("504", DeadlineError, "DEADLINE_EXCEEDED"),
        ("401", UpstreamAuthError, None),
        ("leaked-key", UpstreamAuthError, None),
        ("invalid-key", UpstreamAuthError, "API_KEY_INVALID"),
        ("html:502", UpstreamFailureError, None),
    ],
)
async def test_google_s_errors_become_ours(fault: str, kind: type[ImageError], reason: str | None) -> None:
    app = create_emulator(EmulatorOptions(faults=fault))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        transport = GeminiTransport(client, max_response_bytes=10_000_000)
        with pytest.raises(ImageError) as caught:
            await transport.generate(Account.at("mine", KEY, "http://emulator", "v1beta"), MODEL, BODY)
    assert type(caught.value) is kind
    assert reason in (None, caught.value.reason)
    assert KEY not in repr(vars(caught.value))


async def test_a_refused_key_is_our_trouble() -> None:
    app = create_emulator(EmulatorOptions(api_keys=("another",)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        transport = GeminiTransport(client, max_response_bytes=10_000_000)
        with pytest.raises(UpstreamAuthError):
            await transport.generate(Account.at("mine", KEY, "http://emulator", "v1beta"), MODEL, BODY)


# --- faults ---


@pytest.mark.parametrize("kind", HTTPX_ERRORS, ids=lambda kind: kind.__name__)
async def test_every_httpx_error_becomes_ours(kind: type[BaseException]) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise made(kind)

    def late(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Broken(made(kind)))

    for error in (await failed(handler), await failed(late)):
        assert type(error) is (DeadlineError if kind.__name__ in STALLS else NetworkError)
        assert error.reason == kind.__name__
        assert error.retryable


@pytest.mark.parametrize(
    "error",
    [
        OSError("broken"),
        ConnectionResetError("Cannot write to closing transport"),
        aiohttp.ClientPayloadError("cut"),
        aiohttp.ClientError("other"),
    ],
    ids=repr,
)
async def test_what_slips_through_httpx_becomes_ours_too(error: Exception) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise error

    assert type(await failed(handler)) is NetworkError


async def test_the_interpreter_s_own_timeout_is_a_stall() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise TimeoutError

    assert type(await failed(handler)) is DeadlineError


async def test_a_cancelled_call_stays_cancelled() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await generate(handler)


async def test_the_answer_is_bounded() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"x" * 1000)

    assert (await generate(handler, max_response_bytes=1000)).skeleton == b"x" * 1000
    error = await failed(handler, max_response_bytes=999)
    assert (type(error), error.retryable) == (UpstreamFailureError, False)


async def test_an_endless_error_page_is_cut() -> None:
    sent = 0

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 65536
                yield b"x" * 65536

    assert type(await failed(lambda _: httpx.Response(503, stream=Endless()))) is ServiceUnavailableError
    assert sent < 1_000_000


async def test_a_gateway_s_time_to_wait_is_read() -> None:
    error = await failed(lambda _: httpx.Response(503, text="Down", headers={"Retry-After": "7"}))
    assert (type(error), error.upstream_delay) == (ServiceUnavailableError, 7.0)


async def test_a_redirect_is_not_followed() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(307, headers={"location": "https://evil.example/"})

    error = await failed(handler)
    assert (type(error), error.retryable, len(seen)) == (UpstreamFailureError, False, 1)


async def test_an_impossible_base_is_a_network_error() -> None:
    account = Account.at("mine", KEY, "http://host:port", "v1")
    assert type(await failed(lambda _: httpx.Response(200), account=account)) is NetworkError


# --- the real client, over a socket ---


@asynccontextmanager
async def answering(answer: bytes, *, read: bool = True) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve one raw answer to every connection and then close it."""
    received: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if read:
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
            received.append(head + await reader.readexactly(length))
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}", received


async def over_a_socket(base: str) -> Lifted:
    async with create_http_client(connect_timeout_seconds=5) as client:
        transport = GeminiTransport(client, max_response_bytes=1000)
        return await transport.generate(Account.at("mine", KEY, base, "v1beta"), MODEL, BODY)


async def test_the_real_client_sends_the_length_and_reads_the_answer() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}") as (base, received):
        assert await over_a_socket(base) == lift(b"{}")
    (raw,) = received
    head, _, body = raw.partition(b"\r\n\r\n")
    assert json.loads(body)["contents"][0]["parts"][0]["text"] == "a cat"
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert b"transfer-encoding" not in head.lower()
    assert KEY.encode() not in head.splitlines()[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["closed", "garbage", "cut", "cut chunk", "endless header"],
)
async def test_whatever_a_connection_does_is_a_network_error(answer: bytes) -> None:
    async with answering(answer) as (base, _):
        with pytest.raises(NetworkError):
            await over_a_socket(base)


async def test_nobody_there_is_a_network_error() -> None:
    async with answering(b"") as (base, _):
        pass
    with pytest.raises(NetworkError):
        await over_a_socket(base)


async def test_the_client_trusts_no_proxy_variables_and_waits_for_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://evil.example:1")
    monkeypatch.setenv("ALL_PROXY", "http://evil.example:1")
    async with create_http_client(connect_timeout_seconds=3) as client:
        assert client.timeout == httpx.Timeout(None, connect=3)
        assert client.follow_redirects is False
        assert client.trust_env is False
    async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}") as (base, _):
        assert await over_a_socket(base) == lift(b"{}")


async def test_a_cookie_of_one_account_does_not_go_out_with_another_s_request() -> None:
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\nset-cookie: who=first; path=/\r\ncontent-length: 2\r\n\r\n{}"
    async with (
        answering(answer) as (base, received),
        create_http_client(connect_timeout_seconds=5) as client,
    ):
        transport = GeminiTransport(client, max_response_bytes=1000)
        for label in ("first", "second"):
            await transport.generate(Account.at(label, KEY, base, "v1beta"), MODEL, BODY)
    assert len(received) == 2
    assert not [head for head in received if b"cookie" in head.lower()]


# --- time ---


class Upstream:
    """A server on a socket that does with each connection what it is told, and knows who is connected."""

    def __init__(self) -> None:
        self.url = ""
        self.heads: list[bytes] = []
        self.connections = 0
        self.others = asyncio.all_tasks()
        self.writers: set[asyncio.StreamWriter] = set()
        self.act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = well
        self.asked = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while not reader.at_eof():
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                self.asked.set()
                await self.act(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def abandoned(self) -> None:
        """Wait until nobody is connected and nothing runs but what waits here."""
        async with asyncio.timeout(60):
            while self.writers or asyncio.all_tasks() > self.others:  # noqa: ASYNC110  # the loop has no event for it
                await asyncio.sleep(0)


async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(BODY_BYTES)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"data":"')
    await silent(reader, writer)


async def head_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
    await silent(reader, writer)


async def half_an_error(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 503 Busy\r\ncontent-length: 100\r\n\r\n{"error":')
    await silent(reader, writer)


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
    writer.close()


async def too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 2000)
    await silent(reader, writer)


async def refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer before the request is read, as Google does when it has too much to do."""
    writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}")
    await writer.wait_closed()


async def half_refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 100\r\n\r\n{")
    await writer.wait_closed()


BODY_BYTES = sum(map(len, BODY))


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    served = Upstream()
    server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    served.url = f"http://{host}:{port}"
    try:
        yield served
    finally:
        server.close()
        for writer in served.writers:
            writer.transport.abort()
        await server.wait_closed()


def over(client: httpx.AsyncClient, served: Upstream, **options: Any) -> Coroutine[Any, Any, Lifted]:
    body = options.pop("body", BODY)
    transport = GeminiTransport(client, max_response_bytes=1000, stall_seconds=options.pop("stall_seconds", 30.0))
    return transport.generate(Account.at("mine", KEY, served.url, "v1beta"), MODEL, body, **options)


def own_client() -> httpx.AsyncClient:
    return create_http_client(connect_timeout_seconds=5)


def other_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=None, trust_env=False)  # noqa: S113  # the attempt's bound is tested


CLIENTS = pytest.mark.parametrize("create", [own_client, other_client])


@CLIENTS
@pytest.mark.parametrize("act", [silent, half, half_an_error])
async def test_an_attempt_has_a_bound(create: Callable[[], httpx.AsyncClient], act: Any) -> None:
    async with upstream() as served, create() as client:
        served.act = act
        with pytest.raises(DeadlineError) as caught:
            await over(client, served, timeout_seconds=0.05)
        assert (caught.value.reason, caught.value.retryable) == ("attempt_timeout", True)
        await served.abandoned()


@CLIENTS
@pytest.mark.parametrize("act", [head_only, half, half_an_error])
async def test_an_answer_that_has_begun_may_not_pause_for_long(
    create: Callable[[], httpx.AsyncClient], act: Any
) -> None:
    async with upstream() as served, create() as client:
        served.act = act
        with pytest.raises(DeadlineError) as caught:
            await over(client, served, timeout_seconds=60, stall_seconds=0.05)
        assert (caught.value.reason, caught.value.retryable) == ("stalled", True)
        await served.abandoned()


@pytest.mark.parametrize("status", [200, 503])
async def test_an_answer_that_goes_on_slowly_is_no_stall(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    passed, clock = 0.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + passed)

    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal passed
            for _ in range(10):
                passed += 20
                # One turn for the timers that are due now.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                yield b" "
            yield b"{}"

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(status, stream=Slow()))
    ) as client:
        transport = GeminiTransport(client, max_response_bytes=1000, stall_seconds=30)
        call = transport.generate(ACCOUNT, MODEL, BODY, timeout_seconds=300)
        if status == 200:
            assert (await call).skeleton.strip() == b"{}"
        else:
            with pytest.raises(ServiceUnavailableError):
                await call


async def test_a_picture_that_has_not_begun_does_not_stall() -> None:
    """It takes minutes to make one, and nothing is sent meanwhile."""
    async with upstream() as served, own_client() as client:
        served.act = silent
        with pytest.raises(DeadlineError) as caught:
            await over(client, served, timeout_seconds=0.2, stall_seconds=0.01)
        assert caught.value.reason == "attempt_timeout"


@pytest.mark.parametrize(("seconds", "told"), [(60, b"60"), (0.2, b"1"), (12.01, b"13"), (None, None)])
async def test_google_is_told_how_long_anybody_waits(
    seconds: float | None, told: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    # However long it takes here, nobody has waited too long.
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    async with upstream() as served, own_client() as client:
        await over(client, served, timeout_seconds=seconds)
    fields = dict(line.split(b": ", 1) for line in served.heads[0].lower().split(b"\r\n")[1:] if line)
    assert fields.get(b"x-server-timeout") == told


async def test_a_server_that_cannot_be_reached_in_time_is_a_network_error() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        host, port = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)  # noqa: FBT003  # its own signature
            one.connect_ex((host, port))
        async with create_http_client(connect_timeout_seconds=0.05) as client:
            transport = GeminiTransport(client, max_response_bytes=1000)
            with pytest.raises(NetworkError) as caught:
                await transport.generate(Account.at("mine", KEY, f"http://{host}:{port}", "v1"), MODEL, BODY)
        for one in waiting:
            one.close()
    assert (caught.value.reason, caught.value.retryable) == ("ConnectionTimeoutError", True)


# --- what is left behind ---


@CLIENTS
@pytest.mark.parametrize(
    ("act", "kind", "options"),
    [
        (silent, DeadlineError, {"timeout_seconds": 0.05}),
        (half, DeadlineError, {"stall_seconds": 0.05}),
        (cut, NetworkError, {}),
        (too_much, UpstreamFailureError, {}),
    ],
    ids=["silent", "half", "cut", "too much"],
)
async def test_a_fault_leaves_no_connection_and_no_task_behind(
    create: Callable[[], httpx.AsyncClient], act: Any, kind: type[ImageError], options: dict[str, Any]
) -> None:
    async with upstream() as served, create() as client:
        served.act = act
        with pytest.raises(kind):
            await over(client, served, **options)
        await served.abandoned()
        served.act = well
        assert await over(client, served) == lift(b"{}")
        assert served.connections == 2


@pytest.mark.parametrize(
    ("act", "kind"), [(refused, ServiceUnavailableError), (half_refused, DeadlineError)], ids=["whole", "half"]
)
async def test_a_refusal_in_the_middle_of_a_request_ends_the_sending(act: Any, kind: type[ImageError]) -> None:
    async with upstream() as served, own_client() as client:
        served.act = act
        stall_seconds = 30.0 if act is refused else 0.2
        with pytest.raises(kind):
            await over(client, served, body=(b"x" * 1_000_000,) * 16, timeout_seconds=60, stall_seconds=stall_seconds)
        for writer in served.writers:
            writer.transport.abort()
        await served.abandoned()
        served.act = well
        assert await over(client, served) == lift(b"{}")
        assert served.connections == 2


async def test_a_cancelled_call_closes_its_connection() -> None:
    async with upstream() as served, own_client() as client:
        served.act = half
        call = asyncio.create_task(over(client, served))
        await served.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await served.abandoned()


async def test_connections_are_used_again() -> None:
    async with upstream() as served, own_client() as client:
        for _ in range(3):
            await over(client, served)
        assert (served.connections, len(served.heads)) == (1, 3)


async def test_an_answer_past_the_budget_is_spooled(tmp_path: Path) -> None:
    text = b"A" * 4_000_000
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=0)

    def handler(_: httpx.Request) -> httpx.Response:
        parts = (b'{"data":"', *(text[start : start + 100_000] for start in range(0, len(text), 100_000)), b'"}')
        return httpx.Response(200, stream=Parts(parts))

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        transport = GeminiTransport(client, max_response_bytes=10_000_000, spool=spool)
        (string,) = (await transport.generate(ACCOUNT, MODEL, BODY)).strings
    assert any(not isinstance(piece, bytes | memoryview) for piece in string.pieces)
    assert spool.held_bytes < 2_000_000
    assert join(string.pieces) == text
    del string
    assert spool.held_bytes == 0


async def test_an_answer_that_is_compressed_all_the_same_is_read() -> None:
    zipped = gzip.compress(b'{"a":"b"}')

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Parts((zipped[:5], zipped[5:])))

    assert (await generate(handler)).skeleton == b'{"a":"b"}'


async def test_a_compressed_answer_is_refused_before_it_has_grown() -> None:
    zipped = gzip.compress(b'["' + b"A" * 300_000_000)

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Parts((zipped,)))

    tracemalloc.start()
    try:
        error = await failed(handler, max_response_bytes=1_000_000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (type(error), error.retryable) == (UpstreamFailureError, False)
    assert most < 60_000_000


async def test_long_texts_are_read_beside_the_event_loop() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    text = b"data:image/png;base64," + base64.b64encode(bytes(3_000_000))
    reply = lift(b'{"candidates":[{"content":{"parts":[{"text":"%b"}]}}]}' % text)
    counting = asyncio.ensure_future(count())
    answer = await read_answer(reply)
    counting.cancel()

    assert join(answer.encoded) == text[22:]
    assert turns > 0


async def test_an_answer_of_small_things_without_end_is_refused() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Parts((b"[1,2]" * 100_000,) * 100))

    error = await failed(handler, max_response_bytes=1_000_000_000)
    assert (type(error), error.retryable) == (UpstreamFailureError, False)


class Parts(httpx.AsyncByteStream):
    """A body in parts."""

    def __init__(self, parts: tuple[bytes, ...]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


async def test_the_client_can_be_instrumented() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with upstream() as served, own_client() as client:
        HTTPXClientInstrumentor().instrument_client(client, tracer_provider=provider)
        await over(client, served)
        served.act = cut
        with pytest.raises(NetworkError):
            await over(client, served)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["POST", "POST"]
    assert b"traceparent" in served.heads[0].lower()
    assert KEY not in "".join(span.to_json() for span in spans)
