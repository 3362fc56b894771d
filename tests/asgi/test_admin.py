from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from sfumato.asgi.app import create_app
from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.settings import Settings, load_settings
from tests.conftest import Emulator
from tests.support.apps import calling

pytestmark = pytest.mark.anyio
CACHE = "/gemini-image/cache"
ADMIN = {"authorization": "Bearer admin-key"}
ALICE = {"authorization": "Bearer alice-key"}
BOB = {"authorization": "Bearer bob-key"}
MODEL = "gemini-3-pro-image"


def settings(emulator: Emulator, **values: Any) -> Settings:
    defaults = {"api_key": "upstream-secret", "api_base": emulator.url, "cache_backend": "memory"}
    keys = {"client_keys": "alice:alice-key,bob:bob-key", "admin_key": "admin-key"}
    return load_settings(**{**defaults, **keys, **values})


@pytest.fixture
async def http(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(create_app(settings(emulator))) as client:
        yield client


async def make(http: httpx.AsyncClient, prompt: str = "A fox", **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", ALICE)
    body = {"model": MODEL, "prompt": prompt, **fields}
    answer = await http.post("/v1/images/generations", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def seen(http: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await http.get(CACHE, params=query, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def models(http: httpx.AsyncClient, **query: Any) -> list[str]:
    return sorted(entry["variant"] for entry in (await seen(http, **query))["entries"])


async def remove(http: httpx.AsyncClient, key: str = "", **query: Any) -> int:
    answer = await http.delete(f"{CACHE}/{key}" if key else CACHE, params=query, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["removed"])


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


async def test_the_cache_is_counted_and_its_entries_are_told(http: httpx.AsyncClient) -> None:
    picture = base64.b64decode((await make(http, model=f"{MODEL}-16x9", quality="hd")).json()["data"][0]["b64_json"])
    await make(http, model=f"{MODEL}-16x9", quality="hd")
    told = await seen(http)
    (entry,) = told["entries"]

    assert (told["backend"], told["scope"], told["ttl_seconds"], told["more"]) == ("memory", "global", 86400, False)
    counted = {name: told["stats"][name] for name in ("lookups", "hits", "misses", "hit_rate", "faults", "evictions")}
    assert counted == {"lookups": 2, "hits": 1, "misses": 1, "hit_rate": 0.5, "faults": 0, "evictions": 0}
    assert told["stats"]["entries"] == 1
    assert len(picture) < told["stats"]["size_bytes"] < told["stats"]["capacity_bytes"] == 1000 * 1024 * 1024
    assert entry["key"].startswith(f"img:{MODEL}-4k-16x9:hd:-:")
    assert (entry["model"], entry["operation"], entry["tenant"]) == (MODEL, "generation", "alice")
    assert entry["prompt_sha256"] == hashlib.sha256(b"A fox").hexdigest()
    assert (entry["sha256"], entry["size_bytes"]) == (hashlib.sha256(picture).hexdigest(), len(picture))
    assert 0 <= entry["age_seconds"] < 60 < entry["expires_in_seconds"] <= 86400
    assert entry["price_usd"] > 0
    one = await http.get(f"{CACHE}/{entry['key']}", headers=ADMIN)
    assert one.status_code == 200
    assert {**one.json(), "age_seconds": 0, "expires_in_seconds": 0} == {
        **entry,
        "age_seconds": 0,
        "expires_in_seconds": 0,
    }


async def test_no_answer_holds_a_prompt_a_path_or_a_secret(emulator: Emulator, tmp_path: Path) -> None:
    configured = settings(emulator, cache_backend="filesystem", cache_dir=tmp_path / "hidden-path", hash_salt="hidden")
    async with calling(create_app(configured)) as http:
        await make(http, "hidden-prompt", style="hidden-style", user="hidden-user")
        told = await seen(http, prompt="hidden-prompt")
        (entry,) = told["entries"]
        texts = [(await http.get(f"{CACHE}/{entry['key']}", headers=ADMIN)).text, str(told)]
        texts.append((await http.get(CACHE, params={"prompt": "x", "hidden": "1"}, headers=ALICE)).text)
        texts.append((await http.delete(CACHE, params={"prompt": "hidden-prompt"}, headers=ADMIN)).text)
    for secret in ("hidden-", "upstream-secret", "alice-key", "admin-key"):
        assert not [text for text in texts if secret in text]


@pytest.mark.parametrize(
    "headers",
    [ADMIN, {"x-api-key": "admin-key"}, {"x-goog-api-key": "admin-key"}, {"authorization": "bearer  admin-key "}],
)
async def test_an_administrator_may_send_the_key_as_clients_do(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await http.get(CACHE, headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", [{}, ALICE, {"authorization": "Basic admin-key"}, {"x-api-key": "admin-kez"}])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", [CACHE, f"{CACHE}/", f"{CACHE}/img:key", f"{CACHE}?all=true&unknown=1"])
async def test_nobody_else_is_let_in(http: httpx.AsyncClient, headers: dict[str, str], method: str, path: str) -> None:
    """A client's key is no administrator's, and nothing is told of a request before the key is."""
    answer = await http.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert error_of(answer)["image_error"]["code"] == "IMG_UNAUTHORIZED"


async def test_the_admin_key_is_no_clients_key(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": "x"}
    assert (await http.post("/v1/images/generations", json=body, headers=ADMIN)).status_code == 401


@pytest.mark.parametrize("admin_key", [None, ""])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_without_an_admin_key_the_routes_do_not_exist(
    emulator: Emulator, admin_key: str | None, method: str
) -> None:
    async with calling(create_app(settings(emulator, admin_key=admin_key))) as http:
        for path in (CACHE, f"{CACHE}/img:key"):
            answer = await http.request(method, path, headers={"authorization": "Bearer ", "x-api-key": ""})
            assert answer.status_code == 404


async def test_other_paths_and_methods_fall_through_to_the_app(emulator: Emulator) -> None:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = GeminiImageMiddleware(host, settings=settings(emulator))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        for method, path in (("HEAD", CACHE), ("POST", CACHE), ("PUT", f"{CACHE}/key"), ("GET", f"{CACHE}d")):
            assert (await http.request(method, path, headers=ADMIN)).status_code == 299
        assert (await http.get(CACHE, headers=ADMIN)).status_code == 200
    await app.runtime.aclose()


async def test_filters_select_and_together_narrow(http: httpx.AsyncClient) -> None:
    await make(http, "A fox", model=f"{MODEL}-2k", n=2)
    await make(http, "A fox", model=f"{MODEL}-1k-16x9", headers=BOB)
    await make(http, "An owl", model="gemini-2.5-flash-image")
    digest = hashlib.sha256(b"A fox").hexdigest()

    assert await models(http, model=MODEL) == [f"{MODEL}-16x9", f"{MODEL}-2k", f"{MODEL}-2k"]
    assert await models(http, model=f"models/{MODEL}-preview-2K") == [f"{MODEL}-2k"] * 2
    assert await models(http, model=f"{MODEL}-1k-16:9") == [f"{MODEL}-16x9"]
    assert await models(http, prompt="An owl") == ["gemini-2.5-flash-image"]
    assert await models(http, prompt="an owl") == []
    assert len(await models(http, prompt_hash=digest)) == len(await models(http, prompt_hash=digest[:16].upper())) == 3
    assert await models(http, tenant="bob") == [f"{MODEL}-16x9"]
    assert await models(http, tenant="carol") == []
    assert len(await models(http, older_than=0)) == 4
    assert await models(http, older_than=3600) == []
    assert await models(http, prompt="A fox", tenant="alice", model=MODEL) == [f"{MODEL}-2k"] * 2
    assert await models(http, prompt="A fox", prompt_hash="0" * 16) == []


async def test_a_limit_shortens_the_list_and_says_so(http: httpx.AsyncClient) -> None:
    await make(http, n=3)
    for limit, shown, more in ((0, 0, False), (2, 2, True), (3, 3, False), (1000, 3, False)):
        told = await seen(http, limit=limit)
        assert (len(told["entries"]), told["more"], told["stats"]["entries"]) == (shown, more, 3)


async def test_what_was_removed_is_made_again(http: httpx.AsyncClient, emulator: Emulator) -> None:
    await make(http)
    assert await remove(http, model=MODEL) == 1
    assert (await make(http)).headers["x-gemini-image-cache"] == "miss"
    assert len(emulator.calls()) == 2
    assert await remove(http, prompt="Another") == 0
    assert (await make(http)).headers["x-gemini-image-cache"] == "hit"


async def test_a_key_means_one_entry_and_without_its_slot_all(http: httpx.AsyncClient) -> None:
    await make(http, n=3)
    await make(http, "An owl")
    keys = sorted(entry["key"] for entry in (await seen(http, prompt="A fox"))["entries"])
    assert await remove(http, keys[1]) == 1
    assert await remove(http, keys[1]) == 0
    assert (await http.get(f"{CACHE}/{keys[1]}", headers=ADMIN)).status_code == 404
    assert await remove(http, keys[0].rpartition(":")[0]) == 2
    assert (await seen(http))["stats"]["entries"] == 1


async def test_everything_goes_only_when_it_is_said(http: httpx.AsyncClient) -> None:
    await make(http, n=2)
    for path in (CACHE, f"{CACHE}/"):
        for query in ({}, {"all": "false"}):
            answer = await http.delete(path, params=query, headers=ADMIN)
            assert answer.status_code == 400
            assert error_of(answer)["param"] == "all"
            assert "all=true" in error_of(answer)["message"]
    assert (await seen(http))["stats"]["entries"] == 2
    assert await remove(http, all="true") == 2
    assert await remove(http, all="true") == 0


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("modle=x", "modle"),
        ("all=true&model=gemini-3-pro-image", "all"),
        ("all=perhaps", "all"),
        ("model=gemini-3-pro-image&model=gemini-2.5-flash-image", "model"),
        ("older_than=yesterday", "older_than"),
        ("older_than=-1", "older_than"),
        ("older_than=nan", "older_than"),
        ("prompt_hash=abc", "prompt_hash"),
        ("prompt_hash=", "prompt_hash"),
        ("tenant=", "tenant"),
        ("limit=5", "limit"),
    ],
)
async def test_a_deletion_that_is_not_understood_removes_nothing(
    http: httpx.AsyncClient, query: str, param: str
) -> None:
    await make(http)
    answer = await http.delete(f"{CACHE}?{query}", headers=ADMIN)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param
    assert param in error_of(answer)["message"]
    assert (await seen(http))["stats"]["entries"] == 1


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("?all=true", "all"),
        ("?limit=1001", "limit"),
        ("?limit=-1", "limit"),
        ("?limit=many", "limit"),
        ("/not-a-key", "key"),
        (f"/img:{MODEL}:-:-:{'0' * 64}:0?model={MODEL}", "model"),
    ],
)
async def test_a_question_that_is_not_understood_is_named(http: httpx.AsyncClient, path: str, param: str) -> None:
    answer = await http.get(f"{CACHE}{path}", headers=ADMIN)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


@pytest.mark.parametrize("model", ["dall-e-3", f"{MODEL}-8k", ""])
async def test_a_model_that_does_not_exist_is_no_filter(http: httpx.AsyncClient, model: str) -> None:
    answer = await http.delete(CACHE, params={"model": model}, headers=ADMIN)
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found"


async def test_an_absent_entry_is_404_in_openais_shape(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{CACHE}/img:{MODEL}:-:-:{'0' * 64}:0", headers=ADMIN)
    assert answer.status_code == 404
    assert (error_of(answer)["param"], error_of(answer)["code"]) == ("key", "not_found")


async def test_a_cache_that_fails_is_told_without_its_path(emulator: Emulator, tmp_path: Path) -> None:
    await anyio.Path(tmp_path / "hidden").write_bytes(b"in the way")
    broken = settings(emulator, cache_backend="filesystem", cache_dir=tmp_path / "hidden" / "cache")
    async with calling(create_app(broken)) as http:
        for answer in (
            await http.get(CACHE, headers=ADMIN),
            await http.delete(CACHE, params={"all": "true"}, headers=ADMIN),
            await http.delete(CACHE, params={"model": MODEL}, headers=ADMIN),
        ):
            assert answer.status_code == 500
            assert error_of(answer)["image_error"]["code"] == "IMG_INTERNAL"
            assert "cache" in error_of(answer)["message"]
            assert "hidden" not in answer.text
        counted = await seen(http, limit=0)
    assert (counted["stats"]["entries"], counted["stats"]["faults"]) == (None, 4)


async def test_a_cache_that_is_off_is_empty(emulator: Emulator) -> None:
    async with calling(create_app(settings(emulator, cache_enabled=False))) as http:
        told = await seen(http)
        assert (told["backend"], told["entries"], told["stats"]["entries"]) == ("noop", [], 0)
        assert await remove(http, all="true") == 0


async def test_it_answers_below_a_root_path(emulator: Emulator) -> None:
    app = create_app(settings(emulator))
    transport = httpx.ASGITransport(app=app, root_path="/images")
    async with calling(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get(f"/images{CACHE}", headers=ADMIN)).status_code == 200
