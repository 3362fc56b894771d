"""`app`: the LiteLLM proxy with the middleware in front, for any ASGI server.

::

    sfumato proxy --config config.yaml
    CONFIG_FILE_PATH=config.yaml uvicorn sfumato.litellm.proxy:app --workers 2
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from litellm.proxy.proxy_server import app

from sfumato.asgi.middleware import GeminiImageMiddleware
from sfumato.litellm import provider
from sfumato.litellm.allocator import keep_freed_memory
from sfumato.litellm.hooks import register

__all__ = ["app"]

_litellms_lifespan = app.router.lifespan_context


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[Any]:
    async with _litellms_lifespan(app) as state:
        # LiteLLM has read config.yaml by now, whose `callbacks` may have replaced ours.
        register()
        yield state
        # While its event loop still runs, and LiteLLM's own connections do.
        await provider.runtime.finish()


keep_freed_memory()
app.router.lifespan_context = _lifespan
# The provider's runtime, which config.yaml names too: one cache, one pool of accounts.
app.add_middleware(GeminiImageMiddleware, runtime=provider.runtime, mode="assist")
