"""LiteLLM callbacks: parameters in, answer headers out, and whose the answer is. Other providers pass untouched."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger

from sfumato.asgi.exchange import current_exchange
from sfumato.images.request import Operation
from sfumato.litellm.errors import PROVIDER
from sfumato.litellm.params import PRIVATE_KEY, capture, repaired_cache

HEADERS_KEY = "sfumato_headers"
ATTEMPT_KEY = "sfumato_attempt"
_OPERATIONS = MappingProxyType({"aimage_generation": Operation.GENERATION, "aimage_edit": Operation.EDIT})


class ImageHooks(CustomLogger):
    """Hand our provider the parameters that LiteLLM drops, and the client our answer headers."""

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """Capture a call's parameters after routing, before LiteLLM drops them; always overwrites our private key."""
        operation = _OPERATIONS.get(getattr(call_type, "value", call_type))
        if operation is None or not _is_ours(kwargs):
            return None
        captured = {**kwargs, PRIVATE_KEY: capture(kwargs, operation)}
        return repaired_cache(captured)

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: dict[str, str] | None = None,
        litellm_call_info: dict[str, Any] | None = None,
    ) -> dict[str, str] | None:
        """Return the answer headers that the provider left on its response; nothing for other responses."""
        del data, user_api_key_dict, request_headers, litellm_call_info
        hidden = getattr(response, "_hidden_params", None)
        if response is not None:
            # LiteLLM calls this for the errors of edits too, without an answer.
            settle(hidden.get(ATTEMPT_KEY) if isinstance(hidden, Mapping) else None)
        headers = hidden.get(HEADERS_KEY) if isinstance(hidden, Mapping) else None
        if not isinstance(headers, Mapping):
            return None
        # LiteLLM 1.106.2 gzips answers: 0.4 s of CPU at 8 MB for a quarter fewer bytes (measured 2026-11-21).
        return {"cache-control": "no-transform", **headers}

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Note whose the error is that the proxy answers with; it is called with the very exception."""
        del request_data, user_api_key_dict, args, kwargs
        settle(getattr(original_exception, ATTEMPT_KEY, None))


def settle(attempt_id: object) -> None:
    """Tell the middleware in front, if there is one, which attempt the final answer comes from."""
    exchange = current_exchange()
    if exchange is not None:
        exchange.settle(attempt_id)


def register() -> None:
    """Register the hooks with LiteLLM, once per process."""
    if not any(isinstance(callback, ImageHooks) for callback in litellm.callbacks):
        litellm.logging_callback_manager.add_litellm_callback(ImageHooks())


def _is_ours(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("custom_llm_provider") == PROVIDER or str(kwargs.get("model") or "").startswith(f"{PROVIDER}/")
