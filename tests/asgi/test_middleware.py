from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.errors import ConfigurationError
from sfumato.runtime import Runtime
from sfumato.settings import load_settings
from tests.conftest import Emulator

pytestmark = pytest.mark.anyio
GENERATIONS = "/v1/images/generations"
JSON = {"content-type": "application/json"}


class Host:
    """An app that records what reached it, and how."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.received: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] != "http":
            return
        while True:
            message = await receive()
            self.received.append(message)
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"host"})


def behind(host: Any, emulator: Emulator, **options: Any) -> GeminiImageMiddleware:
    settings = load_settings(api_key="test-key", api_base=emulator.url, cache_backend="noop", max_request_mb=1)
    return GeminiImageMiddleware(host, settings=settings, **{"anonymous": True, **options})


@asynccontextmanager
async def client(app: Any, middleware: GeminiImageMiddleware | None = None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as http:
        yield http
    await (middleware or app).runtime.aclose()


async def test_what_is_not_ours_passes_with_its_own_receive(emulator: Emulator) -> None:
    """Other paths, methods and scopes reach the host with the very receive they came with."""
    seen: list[Receive] = []

    async def host(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(receive)

    async def receive() -> Message:
        raise AssertionError("the middleware read a body that is not its own")

    async def send(message: Message) -> None:
        raise AssertionError(message)

    app = behind(host, emulator)
    for scope in (
        {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []},
        {"type": "http", "method": "GET", "path": GENERATIONS, "headers": []},
        {"type": "http", "method": "POST", "path": "/gemini-image/health", "headers": []},
        {"type": "websocket", "path": GENERATIONS, "headers": []},
    ):
        await app(scope, receive, send)
    assert seen == [receive] * 4


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "dall-e-3", "prompt": "x"}',
        b'{"prompt": "no model"}',
        b"not json",
        b'{"model": "gpt-image-1", "images": "' + b"a" * 2_000_000 + b'"}',
    ],
    ids=["other model", "no model", "not json", "larger than our bound"],
)
async def test_other_models_pass_untouched(emulator: Emulator, body: bytes) -> None:
    """A body for another model reaches the host byte for byte, also one above our own bound."""
    host = Host()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    async with client(behind(host, emulator)) as http:
        answer = await http.post(GENERATIONS, content=pieces(), headers={"content-type": "application/json"})

    assert answer.status_code == 299
    assert b"".join(message["body"] for message in host.received) == body
    assert emulator.calls() == []


async def test_a_multipart_body_of_another_model_passes_untouched(emulator: Emulator) -> None:
    host = Host()
    async with client(behind(host, emulator)) as http:
        request = http.build_request(
            "POST",
            "/v1/images/edits",
            data={"model": "dall-e-2", "prompt": "x"},
            files={"image": ("a.png", b"a" * 70_000, "image/png")},
        )
        sent = await request.aread()
        answer = await http.send(request)
    assert answer.status_code == 299
    assert b"".join(message["body"] for message in host.received) == sent


async def test_our_model_above_the_bound_is_413(emulator: Emulator) -> None:
    async with client(behind(Host(), emulator)) as http:
        answer = await http.post(GENERATIONS, json={"model": "gemini-3-pro-image", "prompt": "x" * 2_000_000})
    assert answer.status_code == 413
    assert answer.json()["error"]["image_error"]["code"] == "IMG_PAYLOAD_TOO_LARGE"


async def test_the_host_answers_for_its_own_failures(emulator: Emulator) -> None:
    """An exception of the host's is the host's: we neither swallow nor answer it."""

    async def host(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the host's own")

    async with client(behind(host, emulator)) as http:
        with pytest.raises(RuntimeError, match="the host's own"):
            await http.post(GENERATIONS, json={"model": "dall-e-3", "prompt": "x"})


async def test_it_answers_below_a_mount_point(emulator: Emulator) -> None:
    """The route is what follows the mount point."""
    middleware = behind(Host(), emulator)
    mounted = Starlette(routes=[Mount("/images-api", app=middleware)])
    async with client(mounted, middleware) as http:
        answer = await http.post(
            "/images-api/v1/images/generations", json={"model": "gemini-3-pro-image", "prompt": "x"}
        )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/generations",
        "/images/generations",
        "/v1/images/generations/",
        "/openai/deployments/gemini-3-pro-image-16x9/images/generations",
    ],
)
async def test_every_spelling_of_the_route(emulator: Emulator, path: str) -> None:
    async with client(behind(Host(), emulator)) as http:
        answer = await http.post(path, json={"model": "gemini-3-pro-image-16x9", "prompt": "x"})
    assert answer.json()["size"] == "1376x768"


async def test_the_path_names_the_model_of_a_deployment(emulator: Emulator) -> None:
    """Azure's clients send no model in the body; a deployment of another model is the host's."""
    async with client(behind(Host(), emulator)) as http:
        ours = await http.post(
            "/openai/deployments/gemini-3-pro-image-9x16/images/generations?api-version=1", json={"prompt": "x"}
        )
        other = await http.post("/openai/deployments/dall-e-3/images/generations", json={"prompt": "x"})
    assert ours.json()["size"] == "768x1376"
    assert other.status_code == 299


async def test_nobody_to_decide_fails_the_start(emulator: Emulator) -> None:
    """A middleware runs outside the routes' own dependencies: with no guard it must not start, nor answer."""
    app = Starlette()
    app.add_middleware(GeminiImageMiddleware, settings=load_settings(api_key="k", api_base=emulator.url))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "anonymous=True" in sent[0]["message"]
    with pytest.raises(ConfigurationError, match="anonymous=True"):
        await app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)


async def test_authorize_names_the_tenant_or_refuses(emulator: Emulator) -> None:
    async def authorize(request: Request) -> str | None:
        if request.headers.get("x-team") != "red":
            raise RuntimeError("whatever a host raises, with its secret")
        return "red"

    host = Host()
    async with client(behind(host, emulator, authorize=authorize)) as http:
        body = {"model": "gemini-3-pro-image", "prompt": "x"}
        refused = await http.post(GENERATIONS, json=body)
        served = await http.post(GENERATIONS, json=body, headers={"x-team": "red"})
        other = await http.post(GENERATIONS, json={**body, "model": "dall-e-3"})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "secret" not in refused.text
    assert served.status_code == 200
    assert other.status_code == 299, "the host's models are the host's to guard"


async def test_a_refused_caller_learns_nothing_of_variants(emulator: Emulator) -> None:
    """The guard comes before everything that reading the request could tell."""

    async def authorize(request: Request) -> str | None:
        raise RuntimeError

    async with client(behind(Host(), emulator, authorize=authorize)) as http:
        for model in ("gemini-3-pro-image-8k", "gemini-3-pro-image"):
            answer = await http.post(GENERATIONS, json={"model": model})
            assert answer.status_code == 401


async def test_the_lifespan_passes_and_closes_the_client(emulator: Emulator) -> None:
    """The host's own start-up and shutdown run; at the end our connections close."""
    events: list[str] = []

    async def host(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        for name in ("startup", "shutdown"):
            events.append((await receive())["type"])
            await send({"type": f"lifespan.{name}.complete"})

    app = behind(host, emulator)
    first = app.runtime.client
    messages: Iterator[Message] = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        events.append(message["type"])

    await app({"type": "lifespan"}, receive, send)

    assert events == [
        "lifespan.startup",
        "lifespan.startup.complete",
        "lifespan.shutdown",
        "lifespan.shutdown.complete",
    ]
    assert app.runtime.client is not first
    await app.runtime.aclose()


async def test_in_front_of_an_app_with_routes_of_its_own(emulator: Emulator) -> None:
    async def hello(request: Request) -> JSONResponse:
        return JSONResponse({"body": json.loads(await request.body())})

    app = Starlette(routes=[Route("/hello", hello, methods=["POST"]), Route(GENERATIONS, hello, methods=["POST"])])
    async with client(behind(app, emulator)) as http:
        assert (await http.post("/hello", json={"a": 1})).json() == {"body": {"a": 1}}
        other = await http.post(GENERATIONS, json={"model": "dall-e-3"})
        ours = await http.post(GENERATIONS, json={"model": "gemini-3-pro-image", "prompt": "x"})
        health = await http.get("/gemini-image/health")
        ready = await http.get("/gemini-image/ready")
        unknown = await http.get("/gemini-image/other")
    assert other.json() == {"body": {"model": "dall-e-3"}}
    assert ours.json()["data"][0]["b64_json"]
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert unknown.status_code == 404


async def test_a_client_that_leaves_while_sending_is_no_error(emulator: Emulator) -> None:
    sent: list[Message] = []
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": b'{"mod', "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    app = behind(Host(), emulator)
    await app({"type": "http", "method": "POST", "path": GENERATIONS, "headers": []}, receive, send)
    assert sent == []


async def test_of_a_refused_caller_only_the_beginning_is_read(emulator: Emulator) -> None:
    """What a body's head tells is enough to refuse it; what is not ours goes on to the host whole."""

    async def authorize(request: Request) -> str | None:
        raise RuntimeError

    received = 0
    pieces: list[bytes] = []
    host = Host()
    app = behind(host, emulator, authorize=authorize)
    for model, status in (("gemini-3-pro-image", 401), ("dall-e-3", 299)):
        pieces = [b'{"model": "' + model.encode() + b'", "image": "', *[b"a" * 65_536] * 10, b'"}']
        waiting = iter(pieces)
        sent: list[Message] = []

        async def receive(waiting: Iterator[bytes] = waiting) -> Message:
            nonlocal received
            received += 1
            piece = next(waiting, b"")
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        received = 0
        await app({"type": "http", "method": "POST", "path": GENERATIONS, "headers": []}, receive, send)
        assert sent[0]["status"] == status
        assert (received < 4) == (status == 401)
    assert b"".join(message["body"] for message in host.received) == b"".join(pieces)
    await app.runtime.aclose()


@pytest.mark.parametrize("path", [f"{GENERATIONS}\n", f"/{GENERATIONS}", f"{GENERATIONS}/x", "/v2/images/generations"])
async def test_near_misses_of_the_route_are_the_hosts(emulator: Emulator, path: str) -> None:
    host = Host()
    app = behind(host, emulator)

    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"model": "gemini-3-pro-image", "prompt": "x"}'}

    async def send(message: Message) -> None:
        """Nobody listens."""

    await app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    assert len(host.scopes) == 1


async def test_a_shared_runtime_is_its_owners_to_close(emulator: Emulator) -> None:
    runtime = Runtime(load_settings(api_key="k", api_base=emulator.url, cache_backend="noop"))
    first = runtime.client

    async def host(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.shutdown.complete"})

    async def nothing(*_: Any) -> Any:
        """Neither give nor take."""

    await GeminiImageMiddleware(host, runtime=runtime, anonymous=True)({"type": "lifespan"}, nothing, nothing)
    assert runtime.client is first
    await runtime.aclose()


async def test_whose_a_refused_request_is_can_be_told_late(emulator: Emulator) -> None:
    """By the path at once; else by the body, as far as it takes: a form may name its model after its files."""

    async def authorize(request: Request) -> str | None:
        raise RuntimeError

    deployment = "/openai/deployments/{}/images/generations"
    async with client(behind(Host(), emulator, authorize=authorize)) as http:
        for model, status in (("gemini-3-pro-image", 401), ("gemini-3-pro-image-8k", 401), ("dall-e-3", 299)):
            named = await http.post(deployment.format(model), json={"prompt": "x"})
            late = await http.post(GENERATIONS, json={"pad": "x" * 70_000, "model": model})
            spaced = await http.post(
                GENERATIONS, content=b'{"model":' + b" " * 20 + b'"' + model.encode() + b'"}', headers=JSON
            )
            assert [answer.status_code for answer in (named, late, spaced)] == [status] * 3
        nobody = await http.post(GENERATIONS, json={"prompt": "x"})
    assert nobody.status_code == 299
    assert emulator.calls() == []


async def test_a_picture_is_kept_where_the_server_ends_the_request(emulator: Emulator) -> None:
    """Some servers cancel the request of a client that left, in place of telling so."""
    body = json.dumps({"model": "gemini-3-pro-image", "prompt": "kept", "cache": {"no-store": True}}).encode()
    sending = asyncio.Event()

    async def receive() -> Message:
        if not sending.is_set() and not received:
            received.append(body)
            return {"type": "http.request", "body": body}
        return await asyncio.Event().wait()  # type: ignore[return-value]  # never

    async def send(message: Message) -> None:
        sending.set()
        await asyncio.Event().wait()

    received: list[bytes] = []
    app = behind(Host(), emulator)
    scope = {"type": "http", "method": "POST", "path": GENERATIONS, "headers": []}
    serving = asyncio.ensure_future(app(scope, receive, send))
    await sending.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

    async with client(app) as http:
        again = await http.post(GENERATIONS, content=body)
    assert again.status_code == 200
    assert len(emulator.calls()) == 1
    await app.runtime.aclose()
