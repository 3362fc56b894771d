"""LiteLLM's synchronous SDK, and how the provider is found."""

from __future__ import annotations

import threading
from typing import Any

import litellm
import pytest
from litellm import exceptions
from litellm.integrations.custom_logger import CustomLogger

import sfumato.litellm
from sfumato.errors import ConfigurationError
from sfumato.litellm.custom_llm import GeminiImageLLM
from sfumato.litellm.installation import install
from tests.conftest import Emulator
from tests.litellm.conftest import SDK_MODEL as MODEL

pytestmark = pytest.mark.usefixtures("provider")


def test_synchronous_calls_work_with_what_litellm_lets_through(emulator: Emulator) -> None:
    answer: Any = litellm.image_generation(
        prompt="A boat", model=f"{MODEL}-16x9", image_size="2K", seed=3, safety_level="HIGH", n=2
    )
    again: Any = litellm.image_generation(
        prompt="A boat", model=f"{MODEL}-16x9", image_size="2K", seed=3, safety_level="HIGH"
    )

    # n is lost before any plugin sees it (LiteLLM 1.106.2).
    assert len(answer.data) == 1
    assert len(emulator.calls()) == 1
    config = emulator.calls()[0]["body"]["generationConfig"]
    assert config["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "2K"}
    assert config["seed"] == 3
    assert again._hidden_params["response_cost"] == 0


class HitLogger(CustomLogger):
    """What LiteLLM's log says of hits.

    Not a plain function: LiteLLM 1.106.2 calls those only if one was registered when its first call with any callback
    was made (`utils.py`, `callback_list`), so a test would depend on the tests before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool | None] = []
        self.logged = threading.Semaphore(0)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        del response_obj, start_time, end_time
        self.seen.append(kwargs["cache_hit"])
        self.logged.release()


def test_a_synchronous_hit_is_logged_as_one() -> None:
    logger = HitLogger()
    litellm.success_callback.append(logger)
    try:
        for _ in range(2):
            litellm.image_generation(prompt="told twice", model=MODEL)
            assert logger.logged.acquire(timeout=60)
    finally:
        litellm.success_callback.remove(logger)
    assert logger.seen == [None, True]


@pytest.mark.parametrize("name", ["image", "mask", "images", "messages", "input"])
def test_synchronous_generations_refuse_what_they_cannot_use(emulator: Emulator, name: str) -> None:
    options: dict[str, Any] = {name: "data:image/png;base64,AA=="}

    with pytest.raises(exceptions.BadRequestError, match=f"Unknown parameter: '{name}'"):
        litellm.image_generation(prompt="A boat", model=MODEL, **options)
    assert not emulator.calls()


def test_synchronous_edits_work(emulator: Emulator, picture: bytes) -> None:
    answer: Any = litellm.image_edit(image=picture, prompt="A hat", model=MODEL, aspect_ratio="1:1")

    assert answer.data[0].b64_json
    assert emulator.calls()[0]["body"]["generationConfig"]["imageConfig"]["aspectRatio"] == "1:1"


def test_synchronous_errors_are_litellms_too() -> None:
    with pytest.raises(exceptions.ContentPolicyViolationError, match="IMG_SAFETY_BLOCKED"):
        litellm.image_generation(prompt="x [[emulator:IMAGE_SAFETY]]", model=MODEL)
    with pytest.raises(exceptions.BadRequestError, match="foo"):
        litellm.image_generation(prompt="x", model=MODEL, foo=1)


def test_closing_twice_is_no_error(provider: GeminiImageLLM) -> None:
    litellm.image_generation(prompt="x", model=MODEL)

    provider.close()
    provider.close()

    assert litellm.image_generation(prompt="x", model=MODEL).data


def test_the_package_offers_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_BACKEND", "noop")
    sfumato.litellm._provider.cache_clear()

    assert isinstance(sfumato.litellm.provider, GeminiImageLLM)
    assert sfumato.litellm.provider is sfumato.litellm.provider
    assert sfumato.litellm.install is install
    assert dir(sfumato.litellm) == ["install", "provider"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = sfumato.litellm.nothing
    sfumato.litellm._provider.cache_clear()


def test_a_wrong_environment_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_SAFETY_FLOOR", "MEDUIM")
    sfumato.litellm._provider.cache_clear()

    with pytest.raises(ConfigurationError, match="GEMINI_IMAGE_SAFETY_FLOOR"):
        _ = sfumato.litellm.provider
