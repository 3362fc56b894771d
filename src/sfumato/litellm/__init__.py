"""The LiteLLM provider: ``custom_handler: sfumato.litellm.provider`` in config.yaml is all a user writes.

Importing this package loads nothing of LiteLLM; naming `provider` or `install` does.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.litellm.custom_llm import GeminiImageLLM
    from sfumato.litellm.installation import install

    provider: GeminiImageLLM

__all__ = ["install", "provider"]


@cache
def _provider() -> GeminiImageLLM:
    from sfumato.litellm.custom_llm import GeminiImageLLM  # noqa: PLC0415  # litellm costs 5 s: only when it is wanted

    return GeminiImageLLM()


def __getattr__(name: str) -> Any:
    """Build the provider, which registers its hooks, when LiteLLM or a user first names it (PEP 562).

    LiteLLM 1.106.2 resolves a custom handler by ``getattr(import_module("sfumato.litellm"), "provider")``.

    Raises:
        ConfigurationError: The environment is invalid; in the proxy it ends the start-up, before any request.
    """
    if name == "provider":
        return _provider()
    if name == "install":
        from sfumato.litellm.installation import install  # noqa: PLC0415  # see above

        return install
    raise AttributeError(f"module 'sfumato.litellm' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
