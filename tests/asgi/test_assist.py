"""A gateway behind the middleware: what its handlers leave for it, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from sfumato.asgi.exchange import Attempt, Exchange, current_exchange
from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.errors import ModelNotFoundError, NoImageError, RateLimitedError
from sfumato.runtime import Runtime
from sfumato.settings import load_settings

GENERATIONS = "/v1/images/generations"
JSON = {"content-type": "application/json"}
Handler = Callable[[Exchange], Awaitable[tuple[int, dict[str, str], list[bytes]]]]


class Gateway:
    """A gateway as LiteLLM is one: it calls a handler and says what it likes."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.scopes: list[Scope] = []
        self.exchanges: list[Exchange] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        while (await receive()).get("more_body"):
            pass
        exchange = current_exchange()
        assert exchange is not None
        self.exchanges.append(exchange)
        status, headers, chunks = await self._handler(exchange)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def assisted(gateway: Any) -> GeminiImageMiddleware:
    settings = load_settings(api_key="test-key", cache_backend="noop")
    return GeminiImageMiddleware(gateway, runtime=Runtime(settings), mode="assist")


async def asked(handler: Handler, **options: Any) -> tuple[httpx.Response, Gateway]:
    gateway = Gateway(handler)
    transport = httpx.ASGITransport(app=assisted(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post(GENERATIONS, **{"json": {"prompt": "x"}, **options})
    return answer, gateway


def late(
    exchange: Exchange, text: bytes = b"UElDVFVSRQ==", headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[Attempt, str]:
    attempt = exchange.begin("req_1")
    token = attempt.bind((text,))
    attempt.succeed(headers, on_undelivered=lambda: None)
    return attempt, token


def body(*tokens: str) -> bytes:
    return json.dumps({"data": [{"b64_json": token} for token in tokens]}).encode()


@pytest.mark.anyio
async def test_pictures_and_headers_are_put_in() -> None:
    async def handler(exchange: Exchange) -> Any:
        attempt, token = late(exchange, headers={"x-gemini-image-cost": "0.13"})
        exchange.settle(attempt.id)
        return 200, {**JSON, "content-length": "99", "x-gateway": "kept"}, [body(token)]

    answer, gateway = await asked(handler, headers={"Accept-Encoding": "gzip"})

    assert answer.json() == {"data": [{"b64_json": "UElDVFVSRQ=="}]}
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers.get_list("content-length") == [str(len(answer.content))]
    assert answer.headers["x-gemini-image-cost"] == "0.13"
    assert answer.headers["x-gateway"] == "kept"
    assert b"accept-encoding" not in dict(gateway.scopes[0]["headers"])
    assert not gateway.exchanges[0].is_open


@pytest.mark.anyio
@given(st.lists(st.integers(0, 260), max_size=6))
async def test_the_gateway_may_cut_its_document_anywhere(cuts: list[int]) -> None:
    async def handler(exchange: Exchange) -> Any:
        document = body(late(exchange, b"T25l")[1], late(exchange, b"VHdv")[1])
        edges = [0, *sorted(cuts), len(document)]
        return 200, JSON, [document[start:stop] for start, stop in itertools.pairwise(edges)]

    answer, _ = await asked(handler)

    assert [item["b64_json"] for item in answer.json()["data"]] == ["T25l", "VHdv"]


@pytest.mark.anyio
async def test_the_attempt_whose_tokens_are_answered_counts() -> None:
    async def handler(exchange: Exchange) -> Any:
        exchange.begin("req_1").fail(NoImageError("x"), seen_status=502)
        late(exchange, headers={"x-attempt": "lost"})
        _, token = late(exchange, headers={"x-attempt": "answered"})
        return 200, JSON, [body(token)]

    answer, _ = await asked(handler)

    assert answer.headers["x-attempt"] == "answered"


@pytest.mark.anyio
async def test_tokens_say_more_than_a_hook() -> None:
    async def handler(exchange: Exchange) -> Any:
        failed = exchange.begin("req_1")
        failed.fail(NoImageError("x"), seen_status=502)
        _, token = late(exchange)
        exchange.settle(failed.id)
        return 200, JSON, [body(token)]

    answer, _ = await asked(handler)

    assert answer.json()["data"][0]["b64_json"] == "UElDVFVSRQ=="


@pytest.mark.anyio
async def test_an_early_answer_gets_its_headers() -> None:
    async def handler(exchange: Exchange) -> Any:
        attempt = exchange.begin("req_1")
        attempt.succeed({"x-gemini-image-cache": "hit"}, on_undelivered=lambda: None)
        exchange.settle(attempt.id)
        return 200, JSON, [body("UElDVFVSRQ==")]

    answer, _ = await asked(handler)

    assert answer.json()["data"][0]["b64_json"] == "UElDVFVSRQ=="
    assert answer.headers["x-gemini-image-cache"] == "hit"


@pytest.mark.anyio
async def test_an_error_is_ours_with_the_status_of_the_table() -> None:
    async def handler(exchange: Exchange) -> Any:
        attempt = exchange.begin("req_1")
        attempt.fail(ModelNotFoundError("There is none.", param="model"), seen_status=400)
        exchange.settle(attempt.id)
        return (
            400,
            {**JSON, "x-gateway": "kept"},
            [b'{"error": {"message": "IMG_MODEL_NOT_FOUND: There is none. Noise."}}'],
        )

    answer, _ = await asked(handler)

    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["message"], error["code"]) == ("There is none.", "model_not_found")
    assert error["image_error"]["request_id"] == answer.headers["x-request-id"] == "req_1"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-gateway"] == "kept"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settled", "status", "text"),
    [
        (False, 429, b'{"error": {"message": "IMG_RATE_LIMITED: x"}}'),
        (True, 418, b'{"error": {"message": "IMG_RATE_LIMITED: x"}}'),
        (True, 429, b'{"error": {"message": "what the operator made of it"}}'),
        (True, 200, b'{"data": [{"b64_json": "b3RoZXI="}]}'),
    ],
    ids=["not settled", "another status", "another message", "another's answer"],
)
async def test_an_answer_that_is_not_the_attempts_is_left_alone(settled: object, status: int, text: bytes) -> None:
    async def handler(exchange: Exchange) -> Any:
        attempt = exchange.begin("req_1")
        attempt.fail(RateLimitedError("x", retry_after=41), seen_status=429)
        exchange.settle(attempt.id if settled else None)
        return status, {**JSON, "content-length": str(len(text))}, [text]

    answer, _ = await asked(handler)

    assert (answer.status_code, answer.content) == (status, text)
    assert "retry-after" not in answer.headers


@pytest.mark.anyio
@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("case", ["unknown", "misplaced", "compressed", "no json"])
async def test_a_token_never_reaches_the_client(case: str, settled: object) -> None:
    async def handler(exchange: Exchange) -> Any:
        attempt, token = late(exchange)
        if settled:
            exchange.settle(attempt.id)
        document = body(token)
        headers = dict(JSON)
        if case == "unknown":
            document = body(Attempt("other").bind((b"A",)))
        elif case == "misplaced":
            document = json.dumps({"note": token}).encode()
        elif case == "compressed":
            headers["content-encoding"] = "br"
        else:
            headers["content-type"] = "application/msgpack"
        return 200, headers, [document, b"more"]

    answer, _ = await asked(handler)

    assert answer.status_code == 500
    assert answer.json()["error"]["image_error"]["code"] == "IMG_INTERNAL"
    assert b"c2Z1bWF0by1sYXRl" not in answer.content


class LostFile:
    """A picture whose file goes away."""

    def __len__(self) -> int:
        return 1_000_000

    def read(self, start: int, stop: int) -> bytes:
        if start:
            raise OSError("gone")
        return b"A" * stop


@pytest.mark.anyio
async def test_a_picture_that_cannot_be_read_breaks_off_and_is_kept_for_its_caller() -> None:
    told: list[str] = []
    sent: list[Message] = []

    async def handler(exchange: Exchange) -> Any:
        attempt = exchange.begin("req_1")
        token = attempt.bind((LostFile(),))
        attempt.succeed({}, on_undelivered=lambda: told.append("undelivered"))
        exchange.settle(attempt.id)
        return 200, JSON, [body(token)]

    async def receive() -> Message:
        if not sent:
            return {"type": "http.request", "body": b"{}"}
        return await asyncio.Event().wait()  # type: ignore[return-value]  # never

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": GENERATIONS, "headers": []}
    await assisted(Gateway(handler))(scope, receive, send)

    assert told == ["undelivered"]
    assert sent[-1]["more_body"]


@pytest.mark.anyio
async def test_a_client_that_leaves_frees_the_picture() -> None:
    """The answer stops at the disconnect, who keeps pictures is told, and nothing of it stays."""
    told: list[str] = []
    sent: list[Message] = []
    stuck = asyncio.Event()

    async def handler(exchange: Exchange) -> Any:
        attempt = exchange.begin("req_1")
        token = attempt.bind((b"A" * 1_000_000,))
        attempt.succeed({}, on_undelivered=lambda: told.append("undelivered"))
        exchange.settle(attempt.id)
        return 200, JSON, [body(token)]

    async def receive() -> Message:
        if not gateway.scopes or not gateway.exchanges:
            return {"type": "http.request", "body": b"{}"}
        await stuck.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 3:
            stuck.set()
            await asyncio.Event().wait()

    gateway = Gateway(handler)
    scope = {"type": "http", "method": "POST", "path": GENERATIONS, "headers": []}

    async with asyncio.timeout(10):
        await assisted(gateway)(scope, receive, send)

    assert told == ["undelivered"]
    assert sum(len(message.get("body", b"")) for message in sent) < 500_000
    assert not gateway.exchanges[0].is_used


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path"), [("GET", GENERATIONS), ("POST", "/v1/chat/completions"), ("POST", "/v1/images/variations")]
)
async def test_other_requests_pass_as_they_are(method: str, path: str) -> None:
    seen: list[Any] = []

    async def app(*given: Any) -> None:
        seen.append((*given, current_exchange()))

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"accept-encoding", b"gzip")]}
    receive, send = object(), object()

    await assisted(app)(scope, receive, send)  # type: ignore[arg-type]  # they are handed on, not called

    assert seen == [(scope, receive, send, None)]


@pytest.mark.anyio
@pytest.mark.parametrize("path", [GENERATIONS, "/litellm/v1/images/edits", "/openai/deployments/a/b/images/edits/"])
async def test_the_gateways_image_routes_are_assisted_wherever_they_are(path: str) -> None:
    seen: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_exchange() is not None)

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    await assisted(app)(scope, None, None)  # type: ignore[arg-type]  # the app calls neither

    assert seen == [True]


@pytest.mark.anyio
async def test_what_no_handler_of_ours_touched_streams_through() -> None:
    """Server-sent events of another model leave as they come."""
    sent: list[Message] = []
    seen_before_the_end: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        seen_before_the_end.append(len(sent))
        await send({"type": "http.response.body", "body": b"two"})

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": GENERATIONS, "headers": []}
    await assisted(app)(scope, None, send)  # type: ignore[arg-type]  # the app receives nothing

    assert seen_before_the_end == [2]
    assert [message.get("body") for message in sent] == [None, b"one", b"two"]


@pytest.mark.anyio
async def test_no_one_need_decide_who_may_call() -> None:
    """The gateway does; our own routes keep their own rule."""
    app = assisted(None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        assert (await http.get("/gemini-image/health")).status_code == 200


async def ended(answer: Callable[[str, Send], Awaitable[None]], *, hangs_at: int | None = None) -> list[str]:
    """Run a request that *answer* answers with a token; return who was told that its picture did not arrive.

    Args:
        answer: The gateway's.
        hangs_at: At which message of the answer the server ends the request's task, as some do at a disconnect.
    """
    told: list[str] = []
    sent: list[Message] = []
    stuck = asyncio.Event()

    async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        exchange = current_exchange()
        assert exchange is not None
        attempt = exchange.begin("req_1")
        attempt.succeed({}, on_undelivered=lambda: told.append("undelivered"))
        exchange.settle(attempt.id)
        await answer(attempt.bind((b"UElDVFVSRQ==",)), send)

    async def receive() -> Message:
        if not sent and not told:
            return {"type": "http.request", "body": b"{}"}
        return await asyncio.Event().wait()  # type: ignore[return-value]  # never

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == hangs_at:
            stuck.set()
            await asyncio.Event().wait()

    scope = {"type": "http", "method": "POST", "path": GENERATIONS, "headers": []}
    serving = asyncio.ensure_future(assisted(gateway)(scope, receive, send))
    if hangs_at is not None:
        await stuck.wait()
        serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return told


async def _plainly(document: bytes, send: Send, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": document})


@pytest.mark.anyio
async def test_what_arrived_is_not_kept() -> None:
    assert await ended(lambda token, send: _plainly(body(token), send)) == []


@pytest.mark.anyio
@pytest.mark.parametrize("hangs_at", [1, 2])
async def test_a_picture_is_kept_where_the_server_ends_the_request(hangs_at: int) -> None:
    assert await ended(lambda token, send: _plainly(body(token), send), hangs_at=hangs_at) == ["undelivered"]


@pytest.mark.anyio
async def test_a_picture_is_kept_where_the_gateway_fails_or_loses_it() -> None:
    async def fail(token: str, send: Send) -> None:
        raise RuntimeError(token)

    assert await ended(fail) == ["undelivered"]
    assert await ended(lambda token, send: _plainly(json.dumps({"note": token}).encode(), send)) == ["undelivered"]


@pytest.mark.anyio
async def test_an_answer_may_have_no_headers() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = current_exchange()
        assert exchange is not None
        exchange.settle(exchange.begin("req_1").id)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=assisted(app)), base_url="http://test") as http:
        assert (await http.post(GENERATIONS)).status_code == 204
