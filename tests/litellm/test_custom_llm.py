"""LiteLLM's SDK, asynchronous, routed and synchronous, against the emulator."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litellm
import pytest
from litellm import exceptions
from litellm.integrations.custom_logger import CustomLogger
from litellm.router import Router

from sfumato.litellm.custom_llm import GeminiImageLLM
from sfumato.litellm.hooks import HEADERS_KEY
from sfumato.litellm.installation import install
from sfumato.litellm.params import PRIVATE_KEY
from sfumato.runtime import Runtime
from sfumato.settings import load_settings
from tests.conftest import Emulator
from tests.litellm.conftest import SDK_MODEL as MODEL
from tests.litellm.conftest import sdk_generate as generate
from tests.support import samples

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("closing")]


class Spend(CustomLogger):
    """A logger as an operator has one: keeps what LiteLLM tells of each success."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []
        self.details: dict[str, Any] = {}

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        del response_obj, start_time, end_time
        self.details = kwargs
        self.seen.append(kwargs["standard_logging_object"])

    async def told(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(60):
            while len(self.seen) < count:  # noqa: ASYNC110  # LiteLLM logs in the background and tells nobody
                await asyncio.sleep(0.01)
        return self.seen


# One for all tests: LiteLLM keeps one logger of a class for the life of the process.
SPEND = Spend()


@pytest.fixture
def spend(provider: GeminiImageLLM) -> Iterator[Spend]:
    del provider
    SPEND.seen.clear()
    litellm.callbacks.append(SPEND)
    yield SPEND
    litellm.callbacks.remove(SPEND)


def body(emulator: Emulator) -> dict[str, Any]:
    found: dict[str, Any] = emulator.calls()[-1]["body"]
    return found


async def test_every_parameter_arrives(emulator: Emulator) -> None:
    answer = await generate(
        n=2,
        size="1792x1024",
        quality="hd",
        style="vivid",
        response_format="url",
        user="ann",
        seed=7,
        safety_level="LOW",
    )

    calls = emulator.calls()
    assert len(calls) == 2
    assert sorted(call["body"]["generationConfig"]["seed"] for call in calls) == [7, 8]
    config = body(emulator)["generationConfig"]["imageConfig"]
    assert config == {"aspectRatio": "16:9", "imageSize": "4K"}
    assert {row["threshold"] for row in body(emulator)["safetySettings"]} == {"BLOCK_ONLY_HIGH"}
    assert answer.data[0].url.startswith("data:image/jpeg;base64,")
    assert "vivid" in answer.data[0].revised_prompt


async def test_the_receipt_is_true(emulator: Emulator) -> None:
    answer = await generate(model=f"{MODEL}-2k-16x9")

    made = samples.from_base64(answer.data[0].b64_json)
    assert answer.size == f"{made.width}x{made.height}"
    assert (answer.output_format, answer.quality, answer.background) == ("jpeg", "2K", "opaque")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens_details["image_tokens"] > 0
    assert answer._hidden_params["response_cost"] == pytest.approx(emulator.calls()[0]["cost_usd"], rel=1e-3)


async def test_a_hit_costs_nothing_and_is_logged_as_one(emulator: Emulator, spend: Spend) -> None:
    await generate()
    again = await generate()

    assert len(emulator.calls()) == 1
    assert again._hidden_params["response_cost"] == 0
    assert again._hidden_params[HEADERS_KEY]["x-gemini-image-cache"] == "hit"
    first, second = await spend.told(2)
    assert (first["cache_hit"], second["cache_hit"]) == (None, True)
    assert first["response_cost"] > 0
    assert second["response_cost"] == 0


async def test_loggers_see_the_parameters_and_no_private_ones(spend: Spend) -> None:
    await generate(n=2, size="1024x1024")

    (seen,) = await spend.told(1)
    assert seen["model_parameters"]["n"] == 2
    assert "sfumato" not in str(seen["model_parameters"])
    assert PRIVATE_KEY not in spend.details


async def test_some_of_n_come_with_the_errors_of_the_rest() -> None:
    answer = await generate("x [[emulator:IMAGE_SAFETY;every=2;id=partial]]", n=2)

    assert len(answer.data) == 1
    assert answer.errors[0]["code"] == "IMG_SAFETY_BLOCKED"
    assert answer._hidden_params[HEADERS_KEY]["x-gemini-image-partial"] == "1/2"


async def test_large_pictures_pass_too() -> None:
    answer = await generate(model=f"{MODEL}-4k", prompt="large", response_format="url")
    again = await generate(model=f"{MODEL}-4k", prompt="large")

    assert answer.data[0].url.partition(",")[2] == again.data[0].b64_json


async def test_edits_carry_pictures_and_mask(emulator: Emulator, spend: Spend, picture: bytes) -> None:
    answer = await litellm.aimage_edit(
        image=[io.BytesIO(picture), ("b.png", samples.encoded(samples.noise(32, 32, seed=2)))],
        mask=io.BytesIO(samples.mask(64, 48, (0, 0, 20, 20))),
        prompt="A hat",
        model=MODEL,
        quality="low",
        user="ann",
    )

    assert samples.from_base64(answer.data[0].b64_json).size == (64, 48)
    parts = body(emulator)["contents"][0]["parts"]
    assert sum("inlineData" in part for part in parts) == 3
    assert body(emulator)["generationConfig"]["imageConfig"]["imageSize"] == "1K"
    (seen,) = await spend.told(1)
    assert (seen["model"], seen["custom_llm_provider"]) == ("gemini-3-pro-image", "gemini-image")
    assert seen["response_cost"] > 0


async def test_edits_take_every_kind_of_picture(emulator: Emulator, picture: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture)
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    with file.open("rb") as handle:
        await litellm.aimage_edit(image=[picture, file, handle, uri], prompt="A hat", model=MODEL)

    images = [part["inlineData"]["data"]["sha256"] for part in body(emulator)["contents"][0]["parts"][1:]]
    assert len(images) == 4
    assert len(set(images)) == 1


async def test_a_file_is_read_from_its_start_again(emulator: Emulator, picture: bytes) -> None:
    handle = io.BytesIO(picture)
    handle.read()

    await litellm.aimage_edit(image=handle, prompt="A hat", model=MODEL)

    assert len(emulator.calls()) == 1


async def test_the_callers_key_goes_to_the_configured_base(emulator: Emulator) -> None:
    await generate("own key", api_key="own-key-9999")

    assert emulator.calls()[0]["key_hint"] == "9999"


async def test_the_pools_keys_go_to_no_other_base(emulator: Emulator) -> None:
    with pytest.raises(exceptions.InternalServerError, match="IMG_CONFIGURATION"):
        await generate(api_base="http://127.0.0.1:1")

    assert not emulator.calls()


async def test_a_key_and_a_base_go_together(emulator: Emulator) -> None:
    await generate("own base", api_key="own-key-9999", api_base=f"{emulator.url}/v1")

    assert emulator.calls()[0]["path"].startswith("/v1/")


async def test_the_sdks_router_keeps_defaults_and_retries(emulator: Emulator, picture: bytes) -> None:
    deployment = {"model_name": "g", "litellm_params": {"model": MODEL, "quality": "low", "foo": 1}}
    router = Router(model_list=[deployment], num_retries=1)

    await router.aimage_generation("x", model="g", size="1792x1024")
    await router.aimage_edit(image=io.BytesIO(picture), prompt="x [[emulator:429:0;times=1]]", model="g")

    generation, refused, edit = emulator.calls()
    assert generation["body"]["generationConfig"]["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "1K"}
    assert (refused["status"], edit["status"]) == (429, 200)
    assert refused["body"]["contents"] == edit["body"]["contents"]


async def test_the_router_tries_its_other_deployment(emulator: Emulator) -> None:
    deployments = [
        {"model_name": "g", "litellm_params": {"model": MODEL, "api_key": key}} for key in ("first-1111", "second-2222")
    ]
    router = Router(model_list=deployments, num_retries=2)

    await router.aimage_generation("x [[emulator:429-day;times=1;id=other]]", model="g")

    assert {call["key_hint"] for call in emulator.calls()} == {"1111", "2222"}


async def test_lost_hooks_come_back(provider: GeminiImageLLM) -> None:
    del provider
    litellm.callbacks[:] = []

    first = await generate(n=2)
    second = await generate(n=2)

    assert (len(first.data), len(second.data)) == (1, 2)


async def test_a_health_check_makes_no_picture(emulator: Emulator) -> None:
    healthy = await litellm.ahealth_check({"model": MODEL}, mode="image_generation", prompt="test from litellm")
    edit = await litellm.ahealth_check({"model": MODEL}, mode="image_edit")

    assert "error" not in healthy
    assert "error" not in edit
    assert not emulator.calls()


async def test_a_health_check_without_a_key_fails(emulator: Emulator) -> None:
    keyless = install(Runtime(load_settings(api_base=emulator.url, cache_backend="noop")))

    found = await litellm.ahealth_check({"model": MODEL}, mode="image_generation", prompt="test from litellm")

    assert "IMG_CONFIGURATION" in found["error"]
    await keyless.aclose()


async def test_the_prompt_of_a_health_check_is_a_prompt(emulator: Emulator) -> None:
    await generate("test from litellm")

    assert len(emulator.calls()) == 1
