"""`install`: the provider for SDK use, and all of it for a LiteLLM proxy that another command starts."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import litellm
from litellm.utils import custom_llm_setup

from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.litellm.custom_llm import GeminiImageLLM
from sfumato.litellm.errors import PROVIDER
from sfumato.litellm.hooks import register
from sfumato.runtime import Runtime

_log = logging.getLogger("sfumato")


def install(runtime: Runtime | None = None) -> GeminiImageLLM:
    """Register the provider: ``litellm.aimage_generation(model="gemini-image/…", prompt="…")`` finds it then.

    Name every argument: LiteLLM 1.106.2's async functions take the first positional one for the model. A second call
    replaces the provider.

    In a proxy, ``LITELLM_WORKER_STARTUP_HOOKS=sfumato.litellm:install`` has LiteLLM call this in every worker; it then
    puts the middleware in front as well, and has the worker's end wait for `Runtime.finish`. Elsewhere is no proxy.

    Args:
        runtime: Where clients come from; by default the one of `sfumato.litellm.provider`, which config.yaml names, so
            that a process has one.

    Returns:
        The provider; close it to end the thread of the synchronous calls before the process ends.

    Raises:
        ConfigurationError: The environment is invalid.
    """
    provider = _shared() if runtime is None else GeminiImageLLM(runtime)
    others = [item for item in litellm.custom_provider_map if item["provider"] != PROVIDER]
    litellm.custom_provider_map = [*others, {"provider": PROVIDER, "custom_handler": provider}]
    custom_llm_setup()  # type: ignore[no-untyped-call]  # LiteLLM's
    register()
    _assist_started_proxy(provider.runtime)
    return provider


def _shared() -> GeminiImageLLM:
    from sfumato.litellm import provider  # noqa: PLC0415  # it is built when it is named

    return provider


def _assist_started_proxy(runtime: Runtime) -> None:
    """Put the middleware in front of a LiteLLM proxy that runs in this process, once.

    LiteLLM 1.106.2 calls its worker hooks while it starts: `add_middleware` refuses then, but the stack that is already
    built can be wrapped (seen 2026-11-21).
    """
    module = sys.modules.get("litellm.proxy.proxy_server")
    app = getattr(module, "app", None)
    if app is None or app.middleware_stack is None or isinstance(app.middleware_stack, GeminiImageMiddleware):
        return
    if not any(item.cls is GeminiImageMiddleware for item in app.user_middleware):
        app.middleware_stack = GeminiImageMiddleware(app.middleware_stack, runtime=runtime, mode="assist")
        _end_with(module, runtime)


def _end_with(module: Any, runtime: Runtime) -> None:
    """Have the proxy's end wait for `Runtime.finish`.

    The hooks are called within LiteLLM's lifespan, which can no longer be wrapped. At its end it calls this function by
    its name (1.106.2, proxy/proxy_server.py, seen 2026-11-22), after the last request and before its database goes.
    """
    ending: Callable[..., Awaitable[None]] | None = getattr(module, "proxy_shutdown_event", None)
    if ending is None:
        _log.warning(
            "LiteLLM's end has changed: at SIGTERM pictures whose client left may be lost, and the last spans."
        )
        return

    @functools.wraps(ending)
    async def ending_after_ours(*args: Any, **kwargs: Any) -> None:
        try:
            await runtime.finish()
        finally:
            await ending(*args, **kwargs)

    module.proxy_shutdown_event = ending_after_ours
