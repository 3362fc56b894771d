"""One table of requests through every door: the same bytes upstream, the same pictures, the same errors.

Through LiteLLM without the middleware an error is LiteLLM's own class: there its status and our leading code count.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware import Middleware

from sfumato.asgi.app import create_app
from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.errors import ImageError, leaves
from sfumato.images.request import ImageSource, Operation
from sfumato.images.variants import parse_variant
from sfumato.litellm.errors import translate_error
from sfumato.runtime import Runtime
from sfumato.settings import load_settings
from sfumato.telemetry.observer import Call
from sfumato.wire.openai_images import parse_request, render_error, render_response
from sfumato.wire.payload import base64_pieces, chunks
from tests.conftest import Emulator
from tests.support import genai, samples
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio
PICTURE = samples.encoded(samples.noise(96, 54), "JPEG", quality=90)
SECOND = samples.encoded(samples.noise(30, 40, seed=2), "WEBP", lossless=True)
MASK = samples.mask(96, 54, (10, 10, 60, 40))
URI = f"data:image/jpeg;base64,{base64.b64encode(PICTURE).decode()}"


@dataclass(frozen=True)
class Case:
    """A request, and the code of the error it ends with."""

    name: str
    fields: dict[str, Any]
    model: str = "gemini-3-pro-image"
    images: tuple[bytes, ...] = ()
    mask: bytes | None = None
    error: str | None = None
    stable: bool = True


@dataclass
class Outcome:
    """What came of a case at one door."""

    status: int
    body: dict[str, Any]
    upstream: list[str] = field(default_factory=list)

    @property
    def pictures(self) -> list[str]:
        return [(item.get("b64_json") or item["url"]) for item in self.body["data"]]


CASES = [
    Case("plain", {"prompt": "A cat", "seed": 1}),
    Case("variant", {"prompt": "A cat", "seed": 2}, model="gemini-3-pro-image-2k-16x9"),
    Case("sibling", {"prompt": "A cat", "seed": 3}, model="gemini-2.5-flash-image-21x9"),
    Case("n, size, quality and style", {"prompt": "A cat", "n": 3, "size": "1792x1024", "style": "natural", "seed": 4}),
    Case("hd", {"prompt": "A cat", "quality": "hd", "style": "oil paint", "seed": 5}, model="gemini-3-pro-image-2k"),
    Case("Gemini's own words", {"prompt": "A cat", "aspect_ratio": "4:5", "image_size": "2K", "seed": 6}),
    Case("imageConfig", {"prompt": "A cat", "imageConfig": {"aspectRatio": "5:4", "imageSize": "1K"}, "seed": 7}),
    Case("url", {"prompt": "A cat", "response_format": "url", "seed": 8}),
    Case("format", {"prompt": "A cat", "output_format": "webp", "output_compression": 60, "seed": 9}),
    Case("safety level", {"prompt": "A cat", "safety_level": "high", "seed": 10}),
    Case(
        "safety settings",
        {"prompt": "A cat", "safety_settings": [{"category": "HARASSMENT", "threshold": "LOW"}], "seed": 11},
    ),
    Case("moderation", {"prompt": "A cat", "moderation": "low", "user": "someone", "seed": 12}),
    Case("accepted without effect", {"prompt": "A cat", "background": "opaque", "input_fidelity": "high", "seed": 13}),
    Case("edit", {"prompt": "Make it night", "seed": 14}, images=(PICTURE,)),
    Case("edit of two, n = 2", {"prompt": "Merge", "n": 2, "size": "1024x1024", "seed": 15}, images=(PICTURE, SECOND)),
    Case("edit with a mask", {"prompt": "A door here", "seed": 16}, images=(PICTURE,), mask=MASK),
    Case("mask as webp", {"prompt": "A door", "output_format": "webp", "seed": 17}, images=(PICTURE,), mask=MASK),
    # Which of the two calls arrives second, and so fails, is not ours to say.
    Case("partial", {"prompt": "x [[emulator:IMAGE_SAFETY;every=2]]", "n": 2, "seed": 18}, stable=False),
    Case("blank prompt", {"prompt": "  "}, error="IMG_MISSING_PROMPT"),
    Case("bad n", {"prompt": "x", "n": 11}, error="IMG_INVALID_PARAMETER"),
    Case("bad size", {"prompt": "x", "size": "large"}, error="IMG_INVALID_PARAMETER"),
    Case("bad level", {"prompt": "x", "safety_level": "strict"}, error="IMG_INVALID_PARAMETER"),
    Case("transparent", {"prompt": "x", "background": "transparent"}, error="IMG_INVALID_PARAMETER"),
    Case("unknown parameter", {"prompt": "x", "negative_prompt": "y"}, error="IMG_INVALID_PARAMETER"),
    Case("a picture to generate from", {"prompt": "x", "image": URI}, error="IMG_INVALID_PARAMETER"),
    Case("pictures to generate from", {"prompt": "x", "images": [{"image_url": URI}]}, error="IMG_INVALID_PARAMETER"),
    Case("a mask to generate in", {"prompt": "x", "mask": URI}, error="IMG_INVALID_PARAMETER"),
    Case("chat", {"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, error="IMG_INVALID_PARAMETER"),
    Case("responses", {"prompt": "x", "input": "y"}, error="IMG_INVALID_PARAMETER"),
    Case(
        "contradiction",
        {"prompt": "x", "aspect_ratio": "1:1"},
        model="gemini-3-pro-image-16x9",
        error="IMG_INVALID_PARAMETER",
    ),
    Case("unknown variant", {"prompt": "x"}, model="gemini-3-pro-image-8k", error="IMG_MODEL_NOT_FOUND"),
    Case("no picture", {"prompt": "x"}, images=(b"GIF",), error="IMG_INVALID_IMAGE"),
    Case("mask of another size", {"prompt": "x"}, images=(SECOND,), mask=MASK, error="IMG_INVALID_IMAGE"),
    Case("blocked", {"prompt": "x [[emulator:PROHIBITED_CONTENT]]"}, error="IMG_SAFETY_BLOCKED"),
    Case("blocked prompt", {"prompt": "x [[emulator:block]]"}, error="IMG_SAFETY_BLOCKED"),
    Case("rate limit", {"prompt": "x [[emulator:429:30]]"}, error="IMG_RATE_LIMITED"),
    Case("quota", {"prompt": "x [[emulator:429-day:30]]"}, error="IMG_QUOTA_EXHAUSTED"),
    Case("our key", {"prompt": "x [[emulator:403]]"}, error="IMG_UPSTREAM_AUTH"),
    Case("text only", {"prompt": "x [[emulator:text-only]]"}, error="IMG_NO_IMAGE"),
    Case("500", {"prompt": "x [[emulator:500]]"}, error="IMG_UPSTREAM_ERROR"),
    Case("503", {"prompt": "x [[emulator:503]]"}, error="IMG_SERVICE_UNAVAILABLE"),
    Case("504", {"prompt": "x [[emulator:504]]"}, error="IMG_TIMEOUT"),
    Case("truncated", {"prompt": "x [[emulator:truncated]]"}, error="IMG_NETWORK_ERROR"),
]


class Door(Protocol):
    async def __call__(self, case: Case) -> Outcome: ...


def through_http(client: httpx.AsyncClient) -> Door:
    """Ask as an OpenAI client asks: JSON for generations, a form for edits."""

    async def ask(case: Case) -> Outcome:
        if not case.images:
            answer = await client.post("/v1/images/generations", json={"model": case.model, **case.fields})
        else:
            files = [("image[]" if len(case.images) > 1 else "image", ("a", data)) for data in case.images]
            files += [("mask", ("m", case.mask))] if case.mask else []
            form = {name: v if isinstance(v, str) else json.dumps(v) for name, v in case.fields.items()}
            answer = await client.post("/v1/images/edits", data={"model": case.model, **form}, files=files)
        return Outcome(answer.status_code, answer.json())

    return ask


def through_library(runtime: Runtime) -> Door:
    """Ask `ImageClient.generate()` itself."""

    async def ask(case: Case) -> Outcome:
        try:
            variant = parse_variant(case.model)
            assert variant
            wish = parse_request(
                Operation.EDIT if case.images else Operation.GENERATION,
                variant,
                case.fields,
                files=[ImageSource("image", data=data) for data in case.images],
                mask=ImageSource("mask", data=case.mask) if case.mask else None,
            )
            result = await runtime.client.generate(wish, call=Call(request_id="req"))
        except ImageError as error:
            return Outcome(error.status, render_error(error, request_id="req"))
        pieces = render_response(result, [base64_pieces(image.picture) for image in result.images])
        return Outcome(200, json.loads(b"".join(chunks(pieces))))

    return ask


@asynccontextmanager
async def app_door(runtime: Runtime) -> AsyncIterator[Door]:
    transport = httpx.ASGITransport(app=create_app(runtime=runtime, anonymous=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://app", timeout=60) as client:
        yield through_http(client)


@asynccontextmanager
async def middleware_door(runtime: Runtime) -> AsyncIterator[Door]:
    app = FastAPI(middleware=[Middleware(GeminiImageMiddleware, runtime=runtime, anonymous=True)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://a", timeout=60) as client:
        yield through_http(client)


@pytest.fixture
async def ask_all(emulator: Emulator) -> AsyncIterator[Callable[[Case], Any]]:
    """Ask in process at three doors and return each outcome with what reached the emulator."""
    settings = load_settings(api_key="k", api_base=emulator.url, cache_enabled=False, max_attempts=1)
    # A runtime for each: an account that was refused rests, at every door of its runtime.
    library, app, middleware = runtimes = [Runtime(settings) for _ in range(3)]
    async with AsyncExitStack() as stack:
        doors = {
            "library": through_library(library),
            "app": await stack.enter_async_context(app_door(app)),
            "middleware": await stack.enter_async_context(middleware_door(middleware)),
        }

        async def ask(case: Case) -> dict[str, Outcome]:
            return {name: await recorded(emulator, door, case) for name, door in doors.items()}

        yield ask
    for runtime in runtimes:
        await runtime.aclose()


async def recorded(emulator: Emulator, door: Door, case: Case) -> Outcome:
    emulator.clear()
    outcome = await door(case)
    calls = emulator.calls()
    for call in calls:
        if call["status"] == 200:
            genai.validate(call["body"])
    outcome.upstream = sorted(json.dumps(call["body"], sort_keys=True) for call in calls)
    return outcome


def unstable(body: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs between any two answers: times, ids, the emulator's own token counts."""
    stable = {name: value for name, value in body.items() if name not in ("created", "usage")}
    if "error" in stable:
        image_error = {k: v for k, v in stable["error"]["image_error"].items() if k != "request_id"}
        stable["error"] = {**stable["error"], "image_error": image_error}
    return stable


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_our_own_doors_agree_in_everything(case: Case, ask_all: Callable[[Case], Any]) -> None:
    outcomes: dict[str, Outcome] = await ask_all(case)
    expected = outcomes.pop("library")
    if case.error:
        assert expected.body["error"]["image_error"]["code"] == case.error
    else:
        assert expected.status == 200
        assert len(expected.upstream) == case.fields.get("n", 1)
    for name, outcome in outcomes.items():
        assert outcome.upstream == expected.upstream, name
        assert outcome.status == expected.status, name
        if case.stable:
            assert unstable(outcome.body) == unstable(expected.body), name
        else:
            assert len(outcome.pictures) == len(expected.pictures), name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_litellm_agrees(case: Case, ask_all: Callable[[Case], Any], proxy: Proxy, emulator: Emulator) -> None:
    """The same upstream bytes and the same pictures; errors by the table of classes."""
    expected: Outcome = (await ask_all(case))["library"]
    # The router would repeat what may pass; here the first answer counts.
    steering = {"cache-control": "no-cache, no-store", "x-litellm-num-retries": "0"}
    headers = {"authorization": "Bearer sk-alone", **steering}
    async with httpx.AsyncClient(base_url=proxy.url, headers=headers, timeout=60) as client:
        # The proxy serves other tests, whose account must not rest or be parked after this one.
        own = case.error in {"IMG_RATE_LIMITED", "IMG_QUOTA_EXHAUSTED", "IMG_UPSTREAM_AUTH"}
        asked = dataclasses.replace(case, model=f"own-{case.model}") if own else case
        outcome = await recorded(emulator, through_http(client), asked)
    assert outcome.upstream == expected.upstream
    if case.error:
        error = next(leaf for leaf in leaves() if leaf.code == case.error)("x")
        translated: Any = translate_error(error, model=case.model, request_id="req", sole_deployment=True)
        assert outcome.status == translated.status_code
        assert case.error in outcome.body["error"]["message"]
        assert outcome.body["error"]["param"] == expected.body["error"]["param"]
        assert "Traceback" not in json.dumps(outcome.body)
        assert "site-packages" not in json.dumps(outcome.body)
        return
    assert outcome.status == 200, outcome.body
    assert len(outcome.pictures) == len(expected.pictures)
    if case.stable:
        assert outcome.pictures == expected.pictures
    for name in ("size", "output_format", "quality", "background"):
        assert outcome.body.get(name) == expected.body.get(name)
    assert [item.get("revised_prompt") for item in outcome.body["data"]] == [
        item.get("revised_prompt") for item in expected.body["data"]
    ]
