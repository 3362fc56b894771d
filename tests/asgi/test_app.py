from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from sfumato.asgi.app import create_app
from sfumato.errors import ConfigurationError
from sfumato.runtime import Runtime
from sfumato.settings import Settings, load_settings
from tests.conftest import Emulator
from tests.support import samples
from tests.support.apps import calling

pytestmark = pytest.mark.anyio
KEY = {"authorization": "Bearer client-key"}
GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"


def settings(emulator: Emulator, **values: Any) -> Settings:
    defaults = {"api_key": "test-key", "api_base": emulator.url, "cache_backend": "memory"}
    return load_settings(**{**defaults, "client_keys": "alice:client-key,bob:other-key", **values})


@pytest.fixture
async def http(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(create_app(settings(emulator)), headers=KEY) as client:
        yield client


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.mark.parametrize(
    "headers",
    [KEY, {"x-api-key": "other-key"}, {"x-goog-api-key": "client-key"}, {"authorization": "bearer  client-key "}],
)
async def test_a_known_key_is_let_in(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    http.headers.pop("authorization")
    assert (await http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic client-key"}, {"x-api-key": "wrong"}]
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gemini-3-pro-image", GENERATIONS, EDITS])
async def test_others_are_refused(http: httpx.AsyncClient, headers: dict[str, str], path: str) -> None:
    http.headers.pop("authorization")
    send = http.get if "models" in path else http.post
    answer = await send(path, headers=headers)
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "invalid_api_key"
    assert "wrong" not in answer.text


async def test_a_refused_caller_is_not_read(emulator: Emulator) -> None:
    """Nobody else answers on these routes, so an unknown caller's body is never received."""
    app = create_app(settings(emulator))
    statuses: list[int] = []

    async def receive() -> Any:
        raise AssertionError("the body of an unknown caller was read")

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    scope = {"type": "http", "method": "POST", "path": GENERATIONS, "headers": [], "query_string": b""}
    async with calling(app):
        await app(scope, receive, send)
    assert statuses[0] == 401


def test_without_keys_it_needs_to_be_told(emulator: Emulator) -> None:
    with pytest.raises(ConfigurationError, match="GEMINI_IMAGE_CLIENT_KEYS"):
        create_app(settings(emulator, client_keys=()))
    create_app(settings(emulator, client_keys=()), anonymous=True)


async def test_models_are_listed_and_found_by_any_spelling(http: httpx.AsyncClient) -> None:
    listed = [row["id"] for row in (await http.get("/v1/models")).json()["data"]]
    assert len([name for name in listed if name.startswith("gemini-3-pro-image")]) == 33
    assert "gemini-3-pro-image-4k-16x9" in listed
    found = await http.get("/v1/models/models/gemini-3-pro-image-preview-16:9-HD")
    assert found.json()["id"] == "gemini-3-pro-image-4k-16x9"
    for name in ("gemini-3-pro-image-9k", "gpt-4o"):
        missing = await http.get(f"/v1/models/{name}")
        assert missing.status_code == 404
        assert error_of(missing)["code"] == "model_not_found"


async def test_unknown_routes_and_methods_answer_in_openais_shape(http: httpx.AsyncClient) -> None:
    for answer, status in (
        (await http.get("/nothing"), 404),
        (await http.delete("/v1/models"), 405),
        (await http.get(GENERATIONS), 404),
    ):
        assert answer.status_code == status
        assert set(error_of(answer)) == {"message", "type", "param", "code"}


async def test_the_answer_tells_what_was_made(http: httpx.AsyncClient) -> None:
    """Headers and body name the variant, pixels, format, tier, safety, cost and cache."""
    body = {"model": "GEMINI/gemini-3-pro-image-16x9-2K", "prompt": "A red bicycle", "safety_level": "medium"}
    first = await http.post(GENERATIONS, json=body, headers={"x-request-id": "mine-1"})
    again = await http.post(GENERATIONS, json=body)

    document = first.json()
    assert (document["size"], document["output_format"], document["quality"]) == ("2752x1536", "jpeg", "2K")
    assert samples.from_base64(document["data"][0]["b64_json"]).size == (2752, 1536)
    assert "revised_prompt" not in document["data"][0]
    assert first.headers["x-request-id"] == "mine-1"
    assert first.headers["x-gemini-image-model"] == "gemini-3-pro-image-2k-16x9"
    assert first.headers["x-gemini-image-safety"] == "MEDIUM"
    assert first.headers["x-gemini-image-cache"] == "miss"
    assert first.headers["cache-status"] == "sfumato; fwd=miss; stored"
    assert float(first.headers["x-gemini-image-cost"]) > 0.13
    assert "no-transform" in first.headers["cache-control"]
    assert "age" not in first.headers
    assert again.headers["x-gemini-image-cache"] == "hit"
    assert again.headers["cache-status"] == "sfumato; hit"
    assert again.headers["age"] == "0"
    assert float(again.headers["x-gemini-image-cost"]) == 0
    assert again.json() == document


@pytest.mark.parametrize("sent", ["", "x" * 200, "a b", "späße"])
async def test_a_request_id_that_cannot_be_one_is_replaced(http: httpx.AsyncClient, sent: str) -> None:
    answer = await http.post(GENERATIONS, json={}, headers={b"x-request-id": sent.encode()})
    assert answer.headers["x-request-id"].startswith("req_")
    assert error_of(answer)["image_error"]["request_id"] == answer.headers["x-request-id"]


async def test_two_idempotency_keys_are_refused(http: httpx.AsyncClient, emulator: Emulator) -> None:
    headers = [("Idempotency-Key", "one"), ("idempotency-key", "two")]
    answer = await http.post(GENERATIONS, json={"prompt": "x"}, headers=headers)
    assert (answer.status_code, error_of(answer)["param"]) == (400, "Idempotency-Key")
    assert not emulator.calls()


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": " \n"}, "prompt", "missing_required_parameter"),
        ({"prompt": "x" * 32_001}, "prompt", "invalid_value"),
        ({"prompt": "x", "n": 0}, "n", "invalid_value"),
        ({"prompt": "x", "n": "many"}, "n", "invalid_value"),
        ({"prompt": "x", "size": "huge"}, "size", "invalid_value"),
        ({"prompt": "x", "quality": "ultra"}, "quality", "invalid_value"),
        ({"prompt": "x", "model": "gemini-3-pro-image-4k", "image_size": "1K"}, "image_size", "invalid_value"),
        ({"prompt": "x", "background": "transparent"}, "background", "invalid_value"),
        ({"prompt": "x", "safety_level": "sometimes"}, "safety_level", "invalid_value"),
        ({"prompt": "x", "seed": 2**31}, "seed", "invalid_value"),
        ({"prompt": "x", "person_generation": "ALLOW_ALL"}, "person_generation", "invalid_value"),
        ({"prompt": "x", "stream": True}, "stream", "invalid_value"),
        ({"prompt": "x", "negative_prompt": "y"}, "negative_prompt", "unknown_parameter"),
        ({"prompt": "x", "cache": {"forever": True}}, "cache.forever", "unknown_parameter"),
        ({"prompt": "x", "model": 7}, "model", "invalid_value"),
        ({"prompt": "x", "model": "gemini-3-pro-image-8k"}, "model", "model_not_found"),
        ({"prompt": "x", "model": "dall-e-3"}, "model", "model_not_found"),
    ],
)
async def test_bad_parameters_are_named(
    http: httpx.AsyncClient, emulator: Emulator, body: dict[str, Any], param: str, code: str
) -> None:
    answer = await http.post(GENERATIONS, json=body)
    assert answer.status_code == (404 if code == "model_not_found" else 400)
    assert (error_of(answer)["param"], error_of(answer)["code"]) == (param, code)
    assert answer.headers["x-should-retry"] == "false"
    assert emulator.calls() == []


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"prompt=x", "application/x-www-form-urlencoded"),
        (b"no boundary", "multipart/form-data"),
        (b"--b\r\nbroken", "multipart/form-data; boundary=b"),
        (b"\xff\xfe", "application/json"),
    ],
)
async def test_a_body_that_is_not_what_it_says(http: httpx.AsyncClient, content: bytes, content_type: str) -> None:
    answer = await http.post(EDITS, content=content, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert error_of(answer)["image_error"]["code"] in ("IMG_INVALID_PARAMETER", "IMG_MISSING_PROMPT")


async def test_unknown_parameters_are_dropped_when_the_operator_says_so(emulator: Emulator) -> None:
    app = create_app(settings(emulator, drop_params=True))
    async with calling(app, headers=KEY) as http:
        answer = await http.post(GENERATIONS, json={"prompt": "x", "negative_prompt": "y"})
    assert answer.status_code == 200


async def test_some_pictures_are_better_than_none(http: httpx.AsyncClient) -> None:
    """Of four calls two fail: 200 with two pictures, and the failures beside them."""
    answer = await http.post(GENERATIONS, json={"prompt": "x [[emulator:IMAGE_SAFETY;every=2;id=partial]]", "n": 4})
    document = answer.json()
    assert answer.status_code == 200
    assert len(document["data"]) == 2
    assert [error["code"] for error in document["errors"]] == ["IMG_SAFETY_BLOCKED"] * 2
    assert {error["index"] for error in document["errors"]} < set(range(4))
    assert answer.headers["x-gemini-image-partial"] == "2/4"

    again = await http.post(GENERATIONS, json={"prompt": "x [[emulator:IMAGE_SAFETY;every=2;id=partial]]", "n": 4})
    assert again.headers["x-gemini-image-cache"] == "partial"


@pytest.mark.parametrize(
    ("fault", "status", "code", "retry_after", "should_retry"),
    [
        ("IMAGE_SAFETY", 400, "IMG_SAFETY_BLOCKED", None, "false"),
        ("block:PROHIBITED_CONTENT", 400, "IMG_SAFETY_BLOCKED", None, "false"),
        ("429:7s", 429, "IMG_RATE_LIMITED", "7", None),
        ("429-day:60s", 429, "IMG_QUOTA_EXHAUSTED", "60", "false"),
        ("429-billing", 429, "IMG_QUOTA_EXHAUSTED", None, "false"),
        ("text-only", 502, "IMG_NO_IMAGE", None, None),
        ("403", 500, "IMG_UPSTREAM_AUTH", None, "false"),
    ],
)
async def test_upstream_errors_say_what_happened(
    http: httpx.AsyncClient, fault: str, status: int, code: str, retry_after: str | None, should_retry: str | None
) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": f"x [[emulator:{fault};id=app]]"})
    assert (answer.status_code, error_of(answer)["image_error"]["code"]) == (status, code)
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers.get("x-should-retry") == should_retry
    assert "type.googleapis.com" not in answer.text


async def test_edits_by_form_in_every_spelling(http: httpx.AsyncClient, emulator: Emulator) -> None:
    """image, image[], image[1] and image2 are pictures, in order; scalars are strings."""
    pictures = [samples.encoded(samples.noise(20, 10 + place)) for place in range(4)]
    names = ("image", "image[]", "image[1]", "image2")
    answer = await http.post(
        EDITS,
        data={
            "prompt": "Merge",
            "n": "2",
            "size": "1024x1024",
            "imageConfig": '{"imageSize": "1K"}',
            "stream": "false",
        },
        files=[(name, (f"{name}.png", data, "image/gif")) for name, data in zip(names, pictures, strict=True)],
    )
    assert answer.status_code == 200, answer.text
    calls = emulator.calls()
    assert len(calls) == 2
    parts = calls[0]["body"]["contents"][0]["parts"][1:]
    assert [part["inlineData"]["data"]["height"] for part in parts] == [10, 11, 12, 13]
    assert {part["inlineData"]["mimeType"] for part in parts} == {"image/png"}, "bytes decide, not the declared type"


async def test_edits_by_json(http: httpx.AsyncClient, emulator: Emulator) -> None:
    """Data URIs and bare base64, also for the mask."""
    original, mask = samples.encoded(samples.noise(64, 48)), samples.mask(64, 48, (8, 8, 40, 40))
    uri = f"data:image/png;base64,{base64.b64encode(original).decode()}"
    for images in ([{"image_url": uri}], [uri], [base64.b64encode(original).decode()]):
        answer = await http.post(
            EDITS,
            json={"prompt": "x", "images": images, "mask": {"image_url": base64.b64encode(mask).decode()}},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["size"] == "64x48"
    assert len(emulator.calls()) == 1, "equal requests spelled differently share a key"


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ([], "image"),
        ([("image", b"")], "image"),
        ([("image", b"not a picture")], "image"),
        ([("image", samples.encoded(samples.noise(8, 8))), ("mask", samples.mask(9, 8, (0, 0, 1, 1)))], "mask"),
        ([("image", samples.encoded(samples.noise(8, 8))), ("mask", samples.encoded(samples.noise(8, 8)))], "mask"),
        ([("image", samples.encoded(samples.noise(8, 8)))] * 15, "image"),
        ([("image", samples.encoded(samples.noise(8, 8))), ("markup", b"x")], "markup"),
    ],
    ids=["none", "empty", "text", "mask of another size", "mask without alpha", "15 images", "unknown file"],
)
async def test_bad_pictures_are_named(
    http: httpx.AsyncClient, emulator: Emulator, files: list[tuple[str, bytes]], param: str
) -> None:
    answer = await http.post(
        EDITS, files=[("prompt", (None, "x")), *((name, ("secret-file-name", data)) for name, data in files)]
    )
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param
    assert "secret-file-name" not in answer.text
    assert emulator.calls() == []


async def test_remote_pictures_need_a_listed_host(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        EDITS, json={"prompt": "x", "images": [{"image_url": "http://169.254.169.254/latest/meta-data"}]}
    )
    assert answer.status_code == 400
    assert "not allowed" in error_of(answer)["message"]


async def test_the_request_may_steer_the_cache(http: httpx.AsyncClient, emulator: Emulator) -> None:
    body = {"prompt": "steer"}
    statuses = [
        (await http.post(GENERATIONS, json={**body, **more}, headers=headers)).headers["x-gemini-image-cache"]
        for more, headers in (
            ({}, {"cache-control": "no-store"}),
            ({}, {}),
            ({}, {}),
            ({}, {"cache-control": "no-cache"}),
            ({"cache": {"no-cache": True}}, {}),
            ({"cache": {"s-maxage": 0}}, {}),
            ({}, {"cache-control": "max-age=60"}),
        )
    ]
    assert statuses == ["miss", "miss", "hit", "bypass", "bypass", "miss", "hit"]
    assert len(emulator.calls()) == 5


async def test_tenants_keep_apart_when_scoped(emulator: Emulator) -> None:
    app = create_app(settings(emulator, cache_scope="tenant"))
    async with calling(app) as http:
        statuses = [
            (await http.post(GENERATIONS, json={"prompt": "x"}, headers={"x-api-key": key})).headers[
                "x-gemini-image-cache"
            ]
            for key in ("client-key", "other-key", "client-key")
        ]
    assert statuses == ["miss", "miss", "hit"]


async def test_ready_without_an_account_is_503(emulator: Emulator) -> None:
    app = create_app(settings(emulator, api_key=None))
    async with calling(app, headers=KEY) as http:
        ready = await http.get("/gemini-image/ready")
        answer = await http.post(GENERATIONS, json={"prompt": "x"})
    assert ready.status_code == 503
    assert answer.status_code == 500
    assert error_of(answer)["image_error"]["code"] == "IMG_CONFIGURATION"


async def test_every_request_ends_in_one_log_line(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """Success, refusal and a request that ended before the engine: one JSON line each, with no prompt in it."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with caplog.at_level(logging.INFO, logger="sfumato.requests"):
        for body in ({"prompt": "canary-prompt", "user": "canary-user"}, {"prompt": "canary-prompt", "n": 99}):
            await http.post(GENERATIONS, json=body, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        http.headers.pop("authorization")
        await http.post(GENERATIONS, json={"prompt": "canary-prompt"})
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "sfumato.requests"]
    assert [(line["status_code"], line["error_code"]) for line in lines] == [
        (200, None),
        (400, "IMG_INVALID_PARAMETER"),
        (401, "IMG_UNAUTHORIZED"),
    ]
    assert [line["tenant"] for line in lines] == ["alice", "alice", None]
    assert {line["trace_id"] for line in lines} == {trace, None}
    assert "canary" not in caplog.text


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
async def test_pictures_in_a_form_may_be_text(http: httpx.AsyncClient, emulator: Emulator, prefix: str) -> None:
    """Base64 and data URIs also come as plain form fields."""
    text = prefix + base64.b64encode(samples.encoded(samples.noise(24, 12))).decode()
    answer = await http.post(EDITS, files=[("prompt", (None, f"text {prefix}")), ("image", (None, text))])
    assert answer.status_code == 200, answer.text
    (call,) = emulator.calls()
    assert call["body"]["contents"][0]["parts"][1]["inlineData"]["data"]["width"] == 24


@pytest.mark.parametrize("text", ["", "https://example.com/a.png", "data:image/png,raw", "%%%"])
async def test_text_that_is_no_picture_is_refused(http: httpx.AsyncClient, text: str) -> None:
    answer = await http.post(EDITS, files=[("prompt", (None, "x")), ("image", (None, text))])
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "image"


async def test_files_on_the_generations_route_are_unknown(http: httpx.AsyncClient, emulator: Emulator) -> None:
    """Nobody pays for a picture that ignores the ones that were sent."""
    for name in ("image", "mask", "style_reference"):
        answer = await http.post(GENERATIONS, files=[("prompt", (None, "x")), (name, ("a.png", b"png"))])
        assert answer.status_code == 400
        assert (error_of(answer)["param"], error_of(answer)["code"]) == (name, "unknown_parameter")
    assert emulator.calls() == []


async def test_a_defect_before_the_engine_is_answered_too(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever fails, the client gets our shape and the log the traceback."""
    app = create_app(settings(emulator))
    messages: list[Any] = []

    async def receive() -> Any:
        raise ZeroDivisionError("secret detail")

    async def send(message: Any) -> None:
        messages.append(message)

    headers = [(b"authorization", b"Bearer client-key")]
    scope = {"type": "http", "method": "POST", "path": GENERATIONS, "headers": headers, "query_string": b""}
    async with calling(app):
        await app(scope, receive, send)
    assert messages[0]["status"] == 500
    body = json.loads(messages[1]["body"])
    assert body["error"]["image_error"]["code"] == "IMG_INTERNAL"
    assert "secret" not in json.dumps(body)
    assert "ZeroDivisionError" in caplog.text


async def test_whatever_authorize_raises_is_a_refusal_on_every_route(emulator: Emulator) -> None:
    async def authorize(request: Request) -> str | None:
        raise ValueError("the database's password")

    async with calling(create_app(settings(emulator), authorize=authorize)) as http:
        for answer in (
            await http.get("/v1/models", headers={"x-request-id": "mine"}),
            await http.post(GENERATIONS, json={}, headers={"x-request-id": "mine"}),
        ):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-request-id"] == "mine"
            assert "password" not in answer.text


@pytest.mark.parametrize(
    "wrong", [{"url_mode": "link"}, {"cache_backend": "redis"}, {"cache_backend": "s3"}, {"accounts_file": "a.toml"}]
)
def test_what_cannot_work_is_refused_when_the_app_is_made(emulator: Emulator, wrong: dict[str, Any]) -> None:
    """Not at the first request: a server that listens is believed to serve."""
    with pytest.raises(ConfigurationError):
        create_app(settings(emulator, **wrong))


def test_a_key_that_cannot_be_sent_is_refused_when_the_app_is_made(emulator: Emulator) -> None:
    with pytest.raises(ConfigurationError, match="default"):
        create_app(settings(emulator, api_key="k é"))


async def test_a_shared_runtime_outlives_the_app(emulator: Emulator) -> None:
    runtime = Runtime(settings(emulator))
    first = runtime.client
    async with calling(create_app(runtime=runtime), headers=KEY) as http:
        assert (await http.get("/v1/models")).status_code == 200
    assert runtime.client is first
    await runtime.aclose()
