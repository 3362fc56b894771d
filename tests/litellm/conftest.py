"""The provider in this process and in a real LiteLLM proxy, both against the emulator."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

# Before litellm is imported: it fetches its price map otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from sfumato.litellm.custom_llm import GeminiImageLLM
from sfumato.litellm.installation import install
from sfumato.runtime import Runtime
from sfumato.settings import load_settings
from tests.conftest import Emulator
from tests.support import samples
from tests.support.other_provider import create_other_provider
from tests.support.proxy import Proxy, assisted_config, running_proxy
from tests.support.servers import serving

PROXY_MODEL = "gemini-3-pro-image"
ADMIN_KEY = "admin-key-1234"
SDK_MODEL = f"gemini-image/{PROXY_MODEL}"


# LiteLLM 1.106.2 builds models from such classes at its first use of some features, with pydantic 2.13.
IGNORED_WARNING = "ignore:Items? .* on TypedDict class .* using the `ReadOnly` qualifier:UserWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(IGNORED_WARNING))


@pytest.fixture
def picture() -> bytes:
    return samples.encoded(samples.noise(64, 48))


@pytest.fixture(scope="session")
def other_provider() -> Iterator[str]:
    """The address of another provider."""
    with serving(create_other_provider()) as url:
        yield url


@pytest.fixture(scope="session")
def assisted(
    emulator_server: Emulator, other_provider: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A LiteLLM proxy with the middleware in front, as `sfumato proxy` runs it."""
    config = assisted_config(emulator_server.url, other_provider)
    directory = tmp_path_factory.mktemp("assisted")
    environment = {"GEMINI_IMAGE_ADMIN_KEY": ADMIN_KEY}
    with running_proxy(
        emulator_server.url, directory, way="command", config=config, environment=environment
    ) as running:
        yield running


async def sdk_generate(prompt: str = "A fox", **options: Any) -> Any:
    """Make pictures by LiteLLM's asynchronous SDK."""
    # By keyword: LiteLLM 1.106.2 takes the first positional argument for the model.
    return await litellm.aimage_generation(**{"model": SDK_MODEL, "prompt": prompt, **options})


@pytest.fixture
def provider(emulator: Emulator) -> Iterator[GeminiImageLLM]:
    """The provider installed in this process, with a fresh cache in memory."""
    registered, callbacks = litellm.custom_provider_map, list(litellm.callbacks)
    settings = load_settings(api_key="pool-key-1234", api_base=emulator.url, cache_backend="memory", max_attempts=2)
    provider = install(Runtime(settings))
    yield provider
    provider.close()
    litellm.custom_provider_map = registered
    litellm.callbacks[:] = callbacks


@pytest.fixture
async def closing(provider: GeminiImageLLM) -> AsyncIterator[GeminiImageLLM]:
    """The provider, whose connections of the test's event loop are closed."""
    yield provider
    await provider.aclose()


def generate(proxy: Proxy, prompt: str, *, key: str = "sk-team-a", **options: Any) -> Any:
    """Return the raw answer, whose headers count too."""
    with proxy.openai(key) as client:
        return client.images.with_raw_response.generate(**{"model": PROXY_MODEL, "prompt": prompt, **options})


def edit(proxy: Proxy, prompt: str, **options: Any) -> Any:
    with proxy.openai() as client:
        return client.images.with_raw_response.edit(**{"model": PROXY_MODEL, "prompt": prompt, **options})


def refused(kind: type[openai.APIStatusError], call: Any, *args: Any, **options: Any) -> dict[str, Any]:
    """Return the body of the error that a call is answered with, nothing in it that a client must not see."""
    with pytest.raises(kind) as caught:
        call(*args, **options)
    text = caught.value.response.text
    for secret in ("Traceback", "site-packages", "/", "pool-key", "deployment-key"):
        # The one address is LiteLLM's own advice about fallbacks.
        assert secret not in text.replace("https://docs.litellm.ai/docs/routing#fallbacks", "")
    found: dict[str, Any] = caught.value.response.json()["error"]
    return found
