from __future__ import annotations

from typing import Any

import litellm
import pytest
from litellm.types.utils import CallTypes, ImageResponse

from sfumato.litellm.hooks import HEADERS_KEY, ImageHooks, register
from sfumato.litellm.params import PRIVATE_KEY, Captured

pytestmark = pytest.mark.anyio


async def captured(kwargs: dict[str, Any], call_type: Any = CallTypes.aimage_generation) -> dict[str, Any] | None:
    return await ImageHooks().async_pre_call_deployment_hook(kwargs, call_type)


@pytest.mark.parametrize("call_type", [CallTypes.aimage_generation, CallTypes.aimage_edit, "aimage_edit"])
async def test_our_calls_carry_their_parameters(call_type: object) -> None:
    found = await captured({"model": "gemini-image/gemini-3-pro-image", "n": 2}, call_type)

    assert found
    assert found[PRIVATE_KEY] == Captured(fields={"n": 2})


async def test_the_provider_may_stand_apart_from_the_model() -> None:
    assert await captured({"model": "gemini-3-pro-image", "custom_llm_provider": "gemini-image"})


@pytest.mark.parametrize(
    ("kwargs", "call_type"),
    [
        ({"model": "openai/gpt-image-1", "n": 2}, CallTypes.aimage_generation),
        ({"model": None}, CallTypes.aimage_generation),
        ({"model": "gemini-image/gemini-3-pro-image"}, CallTypes.acompletion),
        ({"model": "gemini-image/gemini-3-pro-image"}, None),
    ],
)
async def test_other_calls_pass_untouched(kwargs: dict[str, Any], call_type: object) -> None:
    assert await captured(kwargs, call_type) is None


async def test_what_a_caller_put_under_our_key_is_overwritten() -> None:
    found = await captured({"model": "gemini-image/x", PRIVATE_KEY: Captured(fields={"n": 9}), "n": 2})

    assert found
    assert found[PRIVATE_KEY].fields == {"n": 2}


async def headers(response: object) -> dict[str, str] | None:
    return await ImageHooks().async_post_call_response_headers_hook({}, None, response)


async def test_our_headers_reach_the_client() -> None:
    response = ImageResponse(hidden_params={HEADERS_KEY: {"x-gemini-image-cache": "hit"}})

    assert await headers(response) == {"cache-control": "no-transform", "x-gemini-image-cache": "hit"}


@pytest.mark.parametrize("response", [None, ImageResponse(), object()])
async def test_answers_of_others_keep_theirs(response: object) -> None:
    assert await headers(response) is None


async def test_hooks_are_registered_once() -> None:
    before = list(litellm.callbacks)
    try:
        register()
        register()
        assert sum(isinstance(callback, ImageHooks) for callback in litellm.callbacks) == 1
    finally:
        litellm.callbacks[:] = before
