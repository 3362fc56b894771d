"""`install`, for the SDK and as a hook of LiteLLM's workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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


@pytest.fixture
def shared() -> Iterator[GeminiImageLLM]:
    """The process's provider, as `sfumato proxy` sets it."""
    registered, callbacks = litellm.custom_provider_map, list(litellm.callbacks)
    room.provider = GeminiImageLLM(Runtime(load_settings(api_key="k", cache_backend="noop")))
    yield room.provider
    del room.provider
    litellm.custom_provider_map = registered
    litellm.callbacks[:] = callbacks


@pytest.fixture
def proxy_app(monkeypatch: pytest.MonkeyPatch) -> Starlette:
    """LiteLLM's app, as a worker has it when it calls its hooks: started."""
    module = ModuleType("litellm.proxy.proxy_server")
    module.app = app = Starlette()  # type: ignore[attr-defined]  # it is made up
    app.middleware_stack = app.build_middleware_stack()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return app


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
