"""What LiteLLM's SDK raises, against the emulator."""

from __future__ import annotations

import io
import logging
from typing import Any

import httpx
import litellm
import pytest
from litellm import exceptions

from tests.conftest import Emulator
from tests.litellm.conftest import SDK_MODEL as MODEL
from tests.litellm.conftest import sdk_generate as generate

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("closing")]


@pytest.mark.parametrize(
    ("switch", "kind", "status"),
    [
        ("IMAGE_SAFETY", exceptions.ContentPolicyViolationError, 400),
        ("429", exceptions.RateLimitError, 429),
        ("429-day", exceptions.RateLimitError, 429),
        ("503", exceptions.ServiceUnavailableError, 503),
        ("403", exceptions.InternalServerError, 500),
        ("garbage", exceptions.BadGatewayError, 502),
        ("reset", exceptions.BadGatewayError, 502),
    ],
)
async def test_errors_are_litellms(switch: str, kind: type[Exception], status: int) -> None:
    with pytest.raises(kind) as caught:
        await generate(f"x [[emulator:{switch}]]", timeout=60)

    assert str(caught.value).startswith("IMG_")
    assert vars(caught.value)["status_code"] == status


@pytest.mark.parametrize("limit", [0.2, "0.2", httpx.Timeout(0.2)])
async def test_a_timeout_is_kept(limit: Any) -> None:
    with pytest.raises(exceptions.Timeout, match="IMG_TIMEOUT"):
        await generate("x [[emulator:latency:20]]", timeout=limit)


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"foo": 1}, "IMG_INVALID_PARAMETER", "foo"),
        ({"image": "data:image/png;base64,AA=="}, "IMG_INVALID_PARAMETER", "image"),
        ({"mask": b"x"}, "IMG_INVALID_PARAMETER", "mask"),
        ({"messages": [{"role": "user", "content": "y"}]}, "IMG_INVALID_PARAMETER", "messages"),
        ({"input": "y"}, "IMG_INVALID_PARAMETER", "input"),
        ({"extra_body": {"image": "data:image/png;base64,AA=="}}, "IMG_INVALID_PARAMETER", "image"),
        ({"n": 11}, "IMG_INVALID_PARAMETER", "n"),
        ({"timeout": "soon"}, "IMG_INVALID_PARAMETER", "timeout"),
        ({"prompt": " "}, "IMG_MISSING_PROMPT", "prompt"),
        ({"model": f"{MODEL}-8k"}, "IMG_MODEL_NOT_FOUND", "model"),
        ({"model": "gemini-image/dall-e-3"}, "IMG_MODEL_NOT_FOUND", "model"),
    ],
)
async def test_mistakes_are_bad_requests(emulator: Emulator, options: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(exceptions.BadRequestError, match=code) as caught:
        await generate(**options)

    assert vars(caught.value)["param"] == param
    assert not emulator.calls()


async def test_what_is_served_is_named() -> None:
    with pytest.raises(exceptions.BadRequestError, match=r"gemini-3-pro-image.*gemini-2\.5-flash-image"):
        await generate(model="gemini-image/dall-e-3")


async def test_an_accident_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(io.BytesIO):
        def seekable(self) -> bool:
            raise AttributeError("/secret/path")

    with caplog.at_level(logging.ERROR, "sfumato"), pytest.raises(exceptions.InternalServerError) as caught:
        await litellm.aimage_edit(image=Broken(b"x"), prompt="A hat", model=MODEL)

    assert str(caught.value).startswith("IMG_INTERNAL: ")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize("image", [None, 3, ("a.png",), io.StringIO("text")])
async def test_what_is_no_picture_is_refused(image: Any) -> None:
    with pytest.raises(exceptions.BadRequestError, match="IMG_INVALID_IMAGE"):
        await litellm.aimage_edit(image=image, prompt="A hat", model=MODEL)


async def test_two_masks_are_refused(picture: bytes) -> None:
    with pytest.raises(exceptions.BadRequestError, match="Only one 'mask'"):
        await litellm.aimage_edit(image=picture, mask=[picture, picture], prompt="A hat", model=MODEL)


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_is_refused_plainly(stream: bool) -> None:  # noqa: FBT001  # a case of the table
    with pytest.raises(exceptions.BadRequestError, match="/v1/images/generations"):
        await litellm.acompletion(model=MODEL, messages=[{"role": "user", "content": "A fox"}], stream=stream)
