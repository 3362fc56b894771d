"""Google's gemini-3-pro-image behind the OpenAI Images API."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.asgi.app import create_app
    from sfumato.asgi.middleware import GeminiImageMiddleware
    from sfumato.engine.client import ImageClient
    from sfumato.errors import ImageError
    from sfumato.runtime import Runtime
    from sfumato.settings import Settings

__all__ = ["GeminiImageMiddleware", "ImageClient", "ImageError", "Runtime", "Settings", "create_app"]

_HOMES = {
    "GeminiImageMiddleware": "sfumato.asgi.middleware",
    "ImageClient": "sfumato.engine.client",
    "ImageError": "sfumato.errors",
    "Runtime": "sfumato.runtime",
    "Settings": "sfumato.settings",
    "create_app": "sfumato.asgi.app",
}


def __getattr__(name: str) -> Any:
    """Load public names at their first use, so that importing the package costs nothing (PEP 562)."""
    if name == "__version__":
        return version("sfumato")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sfumato' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
