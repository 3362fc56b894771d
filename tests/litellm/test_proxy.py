"""The real proxy with the example's config.yaml, called by the real OpenAI client."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import Emulator
from tests.litellm.conftest import PROXY_MODEL as MODEL
from tests.litellm.conftest import edit, generate, refused
from tests.support import samples
from tests.support.proxy import Proxy


def config(emulator: Emulator) -> dict[str, Any]:
    found: dict[str, Any] = emulator.calls()[-1]["body"]["generationConfig"]
    return found


def test_every_parameter_of_openai_arrives(proxy: Proxy, emulator: Emulator) -> None:
    raw = generate(
        proxy, "A fox", n=2, size="1792x1024", quality="hd", style="vivid", response_format="url", user="ann"
    )

    answer = raw.parse()
    assert len(emulator.calls()) == 2
    assert config(emulator)["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "4K"}
    made = samples.from_base64(answer.data[0].url)
    assert answer.size == f"{made.width}x{made.height}" == "5504x3072"
    assert "vivid" in answer.data[1].revised_prompt
    assert answer.usage.output_tokens_details.image_tokens == 4000


def test_extensions_arrive(proxy: Proxy, emulator: Emulator) -> None:
    extra = {"imageConfig": {"aspectRatio": "4:3", "imageSize": "2K"}, "seed": 7, "safety_level": "high"}

    raw = generate(proxy, "A cat", extra_body=extra)

    assert config(emulator)["imageConfig"] == {"aspectRatio": "4:3", "imageSize": "2K"}
    assert config(emulator)["seed"] == 7
    assert raw.headers["x-gemini-image-safety"] == "HIGH"


@pytest.mark.parametrize("name", ["gemini-3-pro-image-4k-16x9", "gemini-3-pro-image-16:9-hd"])
def test_one_wildcard_serves_the_variants(proxy: Proxy, emulator: Emulator, name: str) -> None:
    generate(proxy, "A dog", model=name, extra_body={"cache": {"no-cache": True}})

    assert config(emulator)["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "4K"}


def test_a_repeated_prompt_is_a_hit_and_free(proxy: Proxy, emulator: Emulator) -> None:
    first = generate(proxy, "A repeated owl", response_format="url")
    again = generate(proxy, "A repeated owl")

    assert len(emulator.calls()) == 1
    cost = emulator.calls()[0]["cost_usd"]
    assert float(first.headers["x-litellm-response-cost"]) == pytest.approx(cost, rel=1e-3)
    assert first.headers["x-gemini-image-cache"] == "miss"
    assert "x-litellm-response-cost" not in again.headers
    assert again.headers["x-gemini-image-cache"] == "hit"
    assert again.headers["x-litellm-cache-key"].startswith("img:gemini-3-pro-image:")
    assert first.parse().data[0].url.partition(",")[2] == again.parse().data[0].b64_json


def test_a_request_governs_the_cache(proxy: Proxy, emulator: Emulator) -> None:
    generate(proxy, "A governed owl")
    generate(proxy, "A governed owl", extra_body={"cache": {"no-cache": True}})
    bypass = generate(proxy, "A governed owl", extra_headers={"Cache-Control": "no-cache"})

    assert len(emulator.calls()) == 3
    assert bypass.headers["x-gemini-image-cache"] == "bypass"


def test_teams_keep_their_pictures_apart(proxy: Proxy, emulator: Emulator) -> None:
    for key in ("sk-team-a", "sk-team-b", "sk-alone", "sk-alone"):
        generate(proxy, "A private owl", key=key)

    assert len(emulator.calls()) == 3


def test_answers_are_not_compressed(proxy: Proxy) -> None:
    raw = generate(proxy, "A big answer")

    assert raw.headers["cache-control"] == "no-transform"
    assert "content-encoding" not in raw.headers
    assert raw.headers["x-request-id"] == raw.headers["x-litellm-call-id"]
    assert "total;dur=" in raw.headers["server-timing"]


def test_some_of_n_are_answered_with_the_errors_of_the_rest(proxy: Proxy) -> None:
    raw = generate(proxy, "x [[emulator:IMAGE_SAFETY;every=2;id=proxy]]", n=2)

    assert raw.headers["x-gemini-image-partial"] == "1/2"
    body = raw.http_response.json()
    assert len(body["data"]) == 1
    assert body["errors"][0]["code"] == "IMG_SAFETY_BLOCKED"


def test_edits_carry_pictures_mask_and_parameters(proxy: Proxy, emulator: Emulator, picture: bytes) -> None:
    second = samples.encoded(samples.noise(32, 32, seed=2))
    mask = samples.mask(64, 48, (0, 0, 20, 20))
    options = {"image": [("a.png", picture), ("b.png", second)], "mask": ("m.png", mask), "quality": "low", "n": 1}

    first = edit(proxy, "A hat", **options, extra_body={"cache": '{"ttl": 60}', "seed": "5"})
    again = edit(proxy, "A hat", **options, extra_body={"seed": "5"})

    (call,) = emulator.calls()
    assert sum("inlineData" in part for part in call["body"]["contents"][0]["parts"]) == 3
    assert call["body"]["generationConfig"]["seed"] == 5
    assert call["body"]["generationConfig"]["imageConfig"]["imageSize"] == "1K"
    assert samples.from_base64(first.parse().data[0].b64_json).size == (64, 48)
    assert float(first.headers["x-litellm-response-cost"]) == pytest.approx(call["cost_usd"], rel=1e-3)
    # LiteLLM 1.106 leaves out what costs nothing; 1.109 says 0 with edits.
    assert float(again.headers.get("x-litellm-response-cost", 0)) == 0
    assert again.headers["x-gemini-image-cache"] == "hit"


def test_edits_may_number_their_pictures(proxy: Proxy, emulator: Emulator, picture: bytes) -> None:
    files = {"image[0]": ("a.png", picture), "image[1]": ("b.png", samples.encoded(samples.noise(32, 32, seed=2)))}
    answer = httpx.post(
        f"{proxy.url}/v1/images/edits",
        headers={"Authorization": "Bearer sk-team-a"},
        data={"model": MODEL, "prompt": "numbered"},
        files=files,
        timeout=60,
    )

    assert answer.status_code == 200
    sizes = [part["inlineData"]["data"]["width"] for part in emulator.calls()[0]["body"]["contents"][0]["parts"][1:]]
    assert sizes == [64, 32]


def test_edits_may_be_json(proxy: Proxy, emulator: Emulator, picture: bytes) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    answer = httpx.post(
        f"{proxy.url}/v1/images/edits",
        headers={"Authorization": "Bearer sk-team-a"},
        json={"model": MODEL, "prompt": "json", "images": [{"image_url": uri}], "n": 2},
        timeout=60,
    )

    assert answer.status_code == 200
    assert len(emulator.calls()) == 2


def test_the_router_repeats_an_edit_with_its_pictures(proxy: Proxy, emulator: Emulator, picture: bytes) -> None:
    edit(proxy, "x [[emulator:garbage;times=1;id=again]]", image=("a.png", picture))

    first, second = emulator.calls()
    assert first["body"]["contents"] == second["body"]["contents"]


def test_a_deployments_parameters_are_defaults(proxy: Proxy, emulator: Emulator) -> None:
    raw = generate(proxy, "A default", model="with-defaults")
    mine = generate(
        proxy, "A default", model="with-defaults", n=1, size="1024x1024", extra_body={"safety_level": "LOW"}
    )

    answer = raw.parse()
    assert len(answer.data) == 2
    assert answer.data[0].url
    assert (answer.size, raw.headers["x-gemini-image-safety"]) == ("2048x2048", "MEDIUM")
    assert (mine.parse().size, mine.headers["x-gemini-image-safety"]) == ("1024x1024", "LOW")
    assert len(emulator.calls()) == 3


def test_a_deployment_may_have_its_own_account(proxy: Proxy, emulator: Emulator) -> None:
    generate(proxy, "Own account", model="own-account")

    assert emulator.calls()[0]["key_hint"] == "5678"


def test_the_pools_keys_go_to_no_base_of_a_deployment(proxy: Proxy, emulator: Emulator) -> None:
    error = refused(openai.InternalServerError, generate, proxy, "x", model="base-only")

    assert error["message"].startswith("IMG_CONFIGURATION: ")
    assert not emulator.calls()


def test_a_refusal_takes_the_content_policy_fallback(proxy: Proxy, emulator: Emulator) -> None:
    raw = generate(proxy, "x [[emulator:IMAGE_SAFETY;times=1;id=fallback]]", model="refusing")

    assert raw.status_code == 200
    assert [call["key_hint"] for call in emulator.calls()] == ["1234", "5678"]


@pytest.mark.parametrize(("key", "level"), [("sk-floor", "MEDIUM"), ("sk-team-floor", "HIGH"), ("sk-alone", "LOW")])
def test_a_floor_of_key_or_team_holds(proxy: Proxy, key: str, level: str) -> None:
    raw = generate(proxy, "A floor", key=key, extra_body={"safety_level": "LOW"})

    assert raw.headers["x-gemini-image-safety"] == level


def test_health_checks_make_no_picture_and_clients_cannot_pose_as_one(proxy: Proxy, emulator: Emulator) -> None:
    headers = {"Authorization": "Bearer sk-alone"}
    health = httpx.get(f"{proxy.url}/health", headers=headers, params={"model": f"{MODEL}*"}, timeout=60).json()
    assert health["healthy_count"] == 1, health
    assert not emulator.calls()

    posing = {"user_api_key_hash": "litellm-internal-health-check"}
    for name in ("metadata", "litellm_metadata"):
        extra = {name: posing, "cache": {"no-cache": True}}
        assert generate(proxy, "test from litellm", extra_body=extra).parse().data
    assert len(emulator.calls()) == 2
