"""The real proxy behind the middleware, as `sfumato proxy` runs it: nothing is lost, and pictures pass by LiteLLM."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import Emulator
from tests.litellm.conftest import ADMIN_KEY, edit, generate
from tests.litellm.conftest import PROXY_MODEL as MODEL
from tests.support import samples
from tests.support.other_provider import PICTURE
from tests.support.proxy import Proxy

TOKEN = re.compile(r"(?:data:image/jpeg;base64,)?c2Z1bWF0by1sYXRl[0-9a-f]{48}")


def failed(call: Any, *args: Any, **options: Any) -> httpx.Response:
    """Return the answer to a call that is refused."""
    with pytest.raises(openai.APIStatusError) as caught:
        call(*args, **options)
    return caught.value.response


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_litellm_never_holds_the_picture(assisted: Proxy, response_format: str) -> None:
    prompt = f"A late fox as {response_format}"

    raw = generate(assisted, prompt, response_format=response_format, n=2)

    answer = raw.parse()
    texts = [getattr(item, response_format) for item in answer.data]
    for text in texts:
        made = samples.from_base64(text)
        assert answer.size == f"{made.width}x{made.height}"
    assert texts[0] != texts[1]
    seen = assisted.seen(prompt)
    assert len(seen) == 2
    assert all(TOKEN.fullmatch(text) for text in seen)
    assert int(raw.headers["content-length"]) == len(raw.http_response.content)
    assert raw.headers["cache-control"] == "no-store, no-transform"


@pytest.mark.parametrize("model", ["watched", "early"])
def test_litellm_gets_the_picture_where_it_may_need_it(assisted: Proxy, model: str) -> None:
    """An operator's own logger, or the deployment's word, keeps pictures in LiteLLM; headers come all the same."""
    prompt = f"A picture for the logger, {model}"

    raw = generate(assisted, prompt, model=model, extra_body={"cache": {"no-cache": True}})

    assert assisted.seen(prompt) == [raw.parse().data[0].b64_json]
    assert "total;dur=" in raw.headers["server-timing"]


def test_edits_are_bound_late_as_well(assisted: Proxy, picture: bytes) -> None:
    raw = edit(assisted, "A late hat", image=("a.png", picture))

    assert samples.from_base64(raw.parse().data[0].b64_json).width > 0
    assert TOKEN.fullmatch(assisted.seen("A late hat")[0])
    assert raw.headers["x-gemini-image-cache"] == "miss"


def test_a_client_that_accepts_gzip_gets_plain_json(assisted: Proxy) -> None:
    raw = generate(assisted, "A plain fox", extra_headers={"Accept-Encoding": "gzip, deflate"})

    assert "content-encoding" not in raw.headers
    assert raw.parse().data


@pytest.mark.parametrize(
    "options",
    [{}, {"n": 2, "response_format": "url"}, {"size": "1792x1024", "quality": "hd", "style": "vivid"}],
    ids=["plain", "two as url", "enhanced"],
)
def test_the_answer_is_the_one_without_the_middleware(proxy: Proxy, assisted: Proxy, options: dict[str, Any]) -> None:
    """The same names, types and texts, up to the picture and what was counted of it."""
    plain = generate(proxy, "The same everywhere", **options)
    ours = generate(assisted, "The same everywhere", **options)

    assert _shape(ours.http_response.json()) == _shape(plain.http_response.json())
    for name in ("x-gemini-image-model", "x-gemini-image-cache", "x-gemini-image-safety", "cache-status"):
        assert ours.headers[name] == plain.headers[name]


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return value[:40] if isinstance(value, str) else type(value)


def test_some_of_n_are_answered_with_the_errors_of_the_rest(assisted: Proxy) -> None:
    raw = generate(assisted, "x [[emulator:IMAGE_SAFETY;every=2;id=assisted]]", n=2)

    body = raw.http_response.json()
    assert raw.headers["x-gemini-image-partial"] == "1/2"
    assert samples.from_base64(body["data"][0]["b64_json"]).width > 0
    assert body["errors"][0]["code"] == "IMG_SAFETY_BLOCKED"


def test_a_hit_is_free_and_bound_late(assisted: Proxy, emulator: Emulator) -> None:
    first = generate(assisted, "An owl, twice")
    again = generate(assisted, "An owl, twice", response_format="url")

    assert len(emulator.calls()) == 1
    assert again.headers["x-gemini-image-cache"] == "hit"
    assert again.headers["cache-status"] == "sfumato; hit"
    assert "x-litellm-response-cost" not in again.headers
    assert again.parse().data[0].url.partition(",")[2] == first.parse().data[0].b64_json


@pytest.mark.parametrize("door", ["generation", "edit"])
@pytest.mark.parametrize(
    ("switch", "status", "code", "headers"),
    [
        ("429", 429, "rate_limit_exceeded", {"retry-after": "41"}),
        ("429-day", 429, "insufficient_quota", {"x-should-retry": "false"}),
        ("IMAGE_SAFETY", 400, "moderation_blocked", {"x-should-retry": "false"}),
        ("403", 500, "upstream_auth", {"x-should-retry": "false"}),
    ],
)
def test_errors_are_whole(
    assisted: Proxy, picture: bytes, door: str, switch: str, status: int, code: str, headers: dict[str, str]
) -> None:
    prompt = f"x [[emulator:{switch}]]"
    options: dict[str, Any] = {"model": "owned"}
    if door == "edit":
        options["image"] = ("a.png", picture)
    answer = failed(edit if door == "edit" else generate, assisted, prompt, **options)

    assert (answer.status_code, error(answer)["code"]) == (status, code)
    detail = error(answer)["image_error"]
    assert detail["request_id"] == answer.headers["x-request-id"] == answer.headers["x-litellm-call-id"]
    assert answer.headers["x-gemini-image-retries"] == "0"
    assert headers.items() <= dict(answer.headers).items()
    assert "litellm" not in answer.text.lower()


@pytest.mark.parametrize("door", ["generation", "edit"])
def test_an_unknown_variant_is_not_found(assisted: Proxy, picture: bytes, door: str) -> None:
    model = f"{MODEL}-8k"
    answer = (
        failed(edit, assisted, "x", model=model, image=("a.png", picture))
        if door == "edit"
        else failed(generate, assisted, "x", model=model)
    )

    assert (answer.status_code, error(answer)["code"], error(answer)["param"]) == (404, "model_not_found", "model")
    assert generate(assisted, "After the mistake").status_code == 200


def test_only_the_attempt_that_is_answered_counts(assisted: Proxy, emulator: Emulator) -> None:
    raw = generate(assisted, "x [[emulator:garbage;times=1;id=assisted-again]]")

    assert len(emulator.calls()) == 2
    assert raw.status_code == 200
    assert raw.headers["x-gemini-image-cache"] == "miss"
    assert "retry-after" not in raw.headers


def test_an_idempotency_key_reaches_the_engine(assisted: Proxy, emulator: Emulator) -> None:
    """The router's own retry of a failed attempt is no repetition of the client's; a client's repetition is."""
    prompt = "Once [[emulator:garbage;times=1;id=once]]"
    options: dict[str, Any] = {
        "extra_headers": {"Idempotency-Key": "once"},
        "extra_body": {"cache": {"no-cache": True, "no-store": True}},
    }

    first = generate(assisted, prompt, **options)
    again = generate(assisted, prompt, **options)

    assert len(emulator.calls()) == 2
    assert first.parse().data[0].b64_json == again.parse().data[0].b64_json
    generate(assisted, prompt, key="sk-team-b", **options)
    assert len(emulator.calls()) == 3


def test_another_providers_answer_is_left_alone(assisted: Proxy, emulator: Emulator) -> None:
    """Exhausted accounts are a rate limit, at which the router falls back; nothing of ours is on what it gets then."""
    raw = generate(assisted, "A fallback [[emulator:429]]", model="limited")

    assert len(emulator.calls()) == 1
    assert raw.parse().data[0].b64_json == PICTURE
    assert not [name for name in raw.headers if name.startswith("x-gemini-image")]
    assert "no-transform" not in raw.headers.get("cache-control", "")


def test_another_providers_error_is_left_alone(assisted: Proxy) -> None:
    answer = failed(generate, assisted, "other:500", model="other")

    assert "image_error" not in answer.text
    assert "the other one broke" in answer.text


def test_a_fallback_of_ours_counts_for_itself(assisted: Proxy, emulator: Emulator) -> None:
    raw = generate(assisted, "x [[emulator:garbage;times=3;id=doomed]]", model="doomed")

    assert len(emulator.calls()) == 4
    assert samples.from_base64(raw.parse().data[0].b64_json).width > 0
    assert raw.headers["x-gemini-image-cache"] == "miss"


def test_text_that_looks_like_a_token_is_text(assisted: Proxy) -> None:
    known = assisted.seen("A late fox as b64_json") if "A late fox as b64_json" in _log(assisted) else []
    text = known[0] if known else f"c2Z1bWF0by1sYXRl{'0' * 48}"

    raw = generate(assisted, f'{text}", "b64_json": "{text}', style="vivid")

    data = raw.parse().data[0]
    assert samples.from_base64(data.b64_json).width > 0
    assert data.revised_prompt.startswith(f'{text}", "b64_json": "{text}')


def test_another_providers_text_that_looks_like_a_token_is_text(assisted: Proxy) -> None:
    text = f"c2Z1bWF0by1sYXRl{'0' * 48}"

    raw = generate(assisted, text, model="other")

    assert raw.parse().data[0].revised_prompt == text


def test_a_choice_that_is_none_is_the_operators_fault(assisted: Proxy, emulator: Emulator) -> None:
    answer = failed(generate, assisted, "x", model="muddled")

    assert (answer.status_code, error(answer)["code"]) == (500, "configuration")
    assert "late_binding" in error(answer)["message"]
    assert not emulator.calls()


def test_the_choice_is_not_a_clients(assisted: Proxy) -> None:
    answer = failed(generate, assisted, "x", extra_body={"late_binding": False})

    assert (error(answer)["code"], error(answer)["param"]) == ("unknown_parameter", "late_binding")


def test_nobody_is_served_before_litellms_own_check(assisted: Proxy, emulator: Emulator) -> None:
    generate(assisted, "A guarded owl")
    emulator.clear()
    answer = httpx.post(
        f"{assisted.url}/v1/images/generations",
        headers={"Authorization": "Bearer unknown"},
        json={"model": MODEL, "prompt": "A guarded owl"},
    )

    # What LiteLLM says without a database is its own affair (1.106.2: 500).
    assert answer.status_code >= 400
    assert "b64_json" not in answer.text
    assert "image_error" not in answer.text
    assert not emulator.calls()


def test_our_own_routes_have_their_own_rule(assisted: Proxy) -> None:
    def status(path: str, key: str | None = None) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.get(f"{assisted.url}/gemini-image/{path}", headers=headers).status_code

    assert [status("health"), status("ready")] == [200, 200]
    for path in ("cache", "accounts"):
        assert [status(path), status(path, "sk-team-a"), status(path, ADMIN_KEY)] == [401, 401, 200]


def test_the_cache_of_the_routes_is_the_providers(assisted: Proxy) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    generate(assisted, "An owl to forget")

    removed = httpx.delete(f"{assisted.url}/gemini-image/cache", params={"prompt": "An owl to forget"}, headers=headers)

    assert removed.json() == {"removed": 1}
    assert generate(assisted, "An owl to forget").headers["x-gemini-image-cache"] == "miss"


def test_other_routes_pass(assisted: Proxy) -> None:
    listed = httpx.get(f"{assisted.url}/v1/models", headers={"Authorization": "Bearer sk-team-a"})

    assert "own-account" in listed.text


def _log(proxy: Proxy) -> str:
    path = proxy.log.with_name("seen.jsonl")
    return path.read_text() if path.exists() else ""


def test_json_and_base64_are_what_they_were(assisted: Proxy) -> None:
    """What is sent is valid JSON with strict base64, of the length that was promised."""
    raw = generate(assisted, "A strict fox")

    document = json.loads(raw.http_response.content)
    assert base64.b64decode(document["data"][0]["b64_json"], validate=True)[:2] == b"\xff\xd8"
