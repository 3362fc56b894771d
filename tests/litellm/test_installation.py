"""`install`, for the SDK and as a hook of LiteLLM's workers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import litellm
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

import sfumato.litellm as room
from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.litellm.custom_llm import GeminiImageLLM
from sfumato.litellm.installation import install
from sfumato.runtime import Runtime
from sfumato.settings import load_settings
from tests.conftest import Emulator
from tests.litellm.conftest import sdk_generate


@pytest.fixture
def restored() -> Iterator[None]:
    """LiteLLM as it was before."""
    registered, callbacks = litellm.custom_provider_map, list(litellm.callbacks)
    yield
    litellm.custom_provider_map = registered
    litellm.callbacks[:] = callbacks


@pytest.fixture
def shared(restored: None) -> Iterator[GeminiImageLLM]:
    """The process's provider, as `sfumato proxy` sets it."""
    room.provider = GeminiImageLLM(Runtime(load_settings(api_key="k", cache_backend="noop")))
    yield room.provider
    del room.provider


class LiteLLMProxy(ModuleType):
    """LiteLLM's module, as a worker has it when it calls its hooks: its app is started."""

    def __init__(self) -> None:
        super().__init__("litellm.proxy.proxy_server")
        self.app = Starlette()
        self.app.middleware_stack = self.app.build_middleware_stack()
        self.endings: list[dict[str, Any]] = []

    async def proxy_shutdown_event(self, **options: Any) -> None:
        self.endings.append(options)


class FailingRuntime(Runtime):
    """A runtime that cannot be closed."""

    async def aclose(self) -> None:
        raise OSError("a disk is gone")


@pytest.fixture
def litellm_proxy(monkeypatch: pytest.MonkeyPatch) -> LiteLLMProxy:
    module = LiteLLMProxy()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture
def proxy_app(litellm_proxy: LiteLLMProxy) -> Starlette:
    return litellm_proxy.app


def registered() -> Any:
    return [item["custom_handler"] for item in litellm.custom_provider_map if item["provider"] == "gemini-image"]


def test_a_process_has_one_provider(shared: GeminiImageLLM) -> None:
    assert install() is install() is shared
    assert registered() == [shared]


def test_a_runtime_of_ones_own_has_a_provider_of_its_own(shared: GeminiImageLLM) -> None:
    runtime = Runtime(load_settings(api_key="k", cache_backend="noop"))

    mine = install(runtime)

    assert mine is not shared
    assert mine.runtime is runtime
    assert registered() == [mine]


def test_a_started_proxy_is_assisted_once(shared: GeminiImageLLM, proxy_app: Starlette) -> None:
    behind = proxy_app.middleware_stack

    install()
    install()

    front = proxy_app.middleware_stack
    assert isinstance(front, GeminiImageMiddleware)
    assert front.app is behind
    assert (front.mode, front.runtime) == ("assist", shared.runtime)


@pytest.mark.usefixtures("shared")
def test_a_proxy_that_has_the_middleware_keeps_one(proxy_app: Starlette) -> None:
    proxy_app.user_middleware = [Middleware(GeminiImageMiddleware)]
    behind = proxy_app.middleware_stack

    install()

    assert proxy_app.middleware_stack is behind


@pytest.mark.usefixtures("shared")
def test_a_proxy_that_is_only_imported_is_left_alone(proxy_app: Starlette) -> None:
    proxy_app.middleware_stack = None

    install()

    assert proxy_app.middleware_stack is None


@pytest.mark.anyio
async def test_the_end_of_a_proxy_waits_for_what_is_rendered(
    litellm_proxy: LiteLLMProxy, emulator: Emulator, tmp_path: Path, restored: None
) -> None:
    settings = load_settings(api_key="k", api_base=emulator.url, cache_dir=tmp_path, grace_seconds=20)
    provider = install(Runtime(settings))
    asking = asyncio.create_task(sdk_generate("A fox [[emulator:latency:1]]"))
    while not await asyncio.to_thread(emulator.calls):
        assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    await litellm_proxy.proxy_shutdown_event(worker_heartbeat="theirs")

    assert litellm_proxy.endings == [{"worker_heartbeat": "theirs"}]
    assert not provider.runtime.draining  # the same process may serve again
    later = Runtime(settings)
    assert len([entry async for entry in later.client.cache.entries()]) == 1
    await later.aclose()


@pytest.mark.anyio
async def test_litellm_ends_whatever_happens_to_ours(litellm_proxy: LiteLLMProxy, restored: None) -> None:
    install(FailingRuntime(load_settings(api_key="k", cache_backend="noop")))

    with pytest.raises(OSError, match="disk"):
        await litellm_proxy.proxy_shutdown_event()

    assert litellm_proxy.endings == [{}]


@pytest.mark.usefixtures("shared")
def test_a_proxy_that_ends_otherwise_is_assisted_all_the_same(
    litellm_proxy: LiteLLMProxy, caplog: pytest.LogCaptureFixture
) -> None:
    litellm_proxy.proxy_shutdown_event = None  # type: ignore[assignment, method-assign]  # another version's

    install()

    assert isinstance(litellm_proxy.app.middleware_stack, GeminiImageMiddleware)
    assert [record.levelname for record in caplog.records if "LiteLLM's end" in record.getMessage()] == ["WARNING"]
