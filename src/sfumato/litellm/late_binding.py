"""Whether LiteLLM gets pictures or tokens for them, which the middleware in front exchanges on the way out.

With tokens LiteLLM copies, validates, logs and compresses nothing of a picture. It gets the pictures where something in
it may need them: its own cache, a guardrail that looks at answers, a logger that is not known to do without.
The rule is cautious: what is lost by pictures is time, what is lost by tokens are pictures.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import litellm
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.integrations.custom_logger import CustomLogger

from sfumato.errors import ConfigurationError

_log = logging.getLogger("sfumato")
_IMAGE_CALLS = frozenset({"image_generation", "aimage_generation", "image_edit", "aimage_edit"})
# Guardrails that see what goes in and never what comes out.
_BEFORE = frozenset({"pre_call", "during_call", "pre_mcp_call", "during_mcp_call", "realtime_input_transcription"})
# LiteLLM's own callbacks that count, limit, route or cut long texts short (1.106.2 and 1.109.1, seen 2026-11-22). Any
# other may send a whole answer on: Langfuse, Arize and Braintrust send pictures, most others what LiteLLM logs, uncut.
_HARMLESS_MODULES = (
    # The second is where 1.109 keeps what its router counts with.
    *("litellm.router", "litellm.router_python_core", "litellm.router_strategy", "litellm.router_utils"),
    "litellm.proxy.hooks",
    *("litellm.proxy.proxy_server", "litellm.proxy.utils", "litellm.proxy.management_helpers"),
    *("litellm._service_logger", "litellm.integrations.SlackAlerting", "litellm.integrations.datadog.datadog"),
    *("litellm.integrations.opentelemetry", "litellm.integrations.prometheus"),
    *("litellm.integrations.prometheus_services", "litellm.integrations.lago", "litellm.integrations.openmeter"),
    "sfumato",
)
_HARMLESS_NAMES = frozenset({"cache", "otel", "prometheus", "prometheus_system", "datadog", "lago", "openmeter"})
_LOGGING_HOOKS = ("log_success_event", "async_log_success_event")
_HOOKS_THAT_SEE_ANSWERS = (
    *_LOGGING_HOOKS,
    *("logging_hook", "async_logging_hook", "async_post_call_success_hook"),
    *("async_post_call_success_deployment_hook", "async_post_call_response_headers_hook"),
)


class LateBinding:
    """Decides, and says once of each reason why not."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def applies(self, choice: object, logging_obj: Any) -> bool:
        """Tell whether a call's pictures may be bound late.

        Args:
            choice: The deployment's ``late_binding``; true goes against guardrails and loggers, not against
                LiteLLM's cache, which would keep the tokens.
            logging_obj: LiteLLM's log of the call, which knows the callbacks of its key and team.

        Raises:
            ConfigurationError: *choice* is neither true nor false.
        """
        if not isinstance(choice, bool | None):
            raise ConfigurationError("A deployment's late_binding must be true or false.")
        if choice is False:
            return False
        try:
            reason = _cache_reason() or (None if choice else _callback_reason(logging_obj))
        except (AttributeError, TypeError):
            # A LiteLLM to come may keep them elsewhere, which must not fail requests.
            reason = "LiteLLM's callbacks have changed"
        if reason is not None and reason not in self._told:
            self._told.add(reason)
            _log.info("Pictures pass through LiteLLM and are not bound late: %s", reason)
        return reason is None


def _cache_reason() -> str | None:
    cache = litellm.cache
    if cache is None:
        return None
    calls = getattr(cache, "supported_call_types", None)
    return "LiteLLM's cache holds image calls" if calls is None or _IMAGE_CALLS & set(calls) else None


def _callback_reason(logging_obj: Any) -> str | None:
    if litellm.cold_storage_custom_logger is not None:
        return "LiteLLM's cold storage keeps answers"
    for callback in _callbacks(logging_obj):
        if isinstance(callback, CustomGuardrail):
            if not _events(callback.event_hook) <= _BEFORE or _overrides(callback, CustomGuardrail, _LOGGING_HOOKS):
                return f"the guardrail {callback.guardrail_name or type(callback).__name__} may look at answers"
        elif _sees_answers(callback):
            name = callback if isinstance(callback, str) else getattr(callback, "__name__", type(callback).__name__)
            return f"the callback {name} may look at answers"
    return None


def _callbacks(logging_obj: Any) -> Iterator[Any]:
    own = (getattr(logging_obj, f"dynamic_{kind}success_callbacks", None) or () for kind in ("", "async_"))
    return itertools.chain(litellm.callbacks, litellm.success_callback, litellm._async_success_callback, *own)  # noqa: SLF001  # where LiteLLM keeps them


def _sees_answers(callback: Any) -> bool:
    if isinstance(callback, str):
        return callback not in _HARMLESS_NAMES
    is_logger = isinstance(callback, CustomLogger)
    module = type(callback).__module__ if is_logger else getattr(callback, "__module__", None) or ""
    if _is_harmless(module):
        # With another name OpenTelemetry is Arize's or Langfuse's, with pictures in its spans.
        return getattr(callback, "callback_name", None) not in (None, *_HARMLESS_NAMES)
    return not is_logger or _overrides(callback, CustomLogger, _HOOKS_THAT_SEE_ANSWERS)


def _overrides(callback: Any, base: Any, names: tuple[str, ...]) -> bool:
    """Tell whether a class between, or the instance itself, has another function under one of *names*."""
    kind: Any = type(callback)
    return _class_overrides(kind, base, names) or not vars(callback).keys().isdisjoint(names)


# Asked of each callback with each request, of which LiteLLM's proxy has twenty-five.
@functools.lru_cache(maxsize=256)
def _class_overrides(kind: type[Any], base: type[Any], names: tuple[str, ...]) -> bool:
    return any(getattr(kind, name, None) is not getattr(base, name, None) for name in names)


@functools.lru_cache(maxsize=256)
def _is_harmless(module: str) -> bool:
    return any(f"{module}.".startswith(f"{harmless}.") for harmless in _HARMLESS_MODULES)


def _events(hook: Any) -> set[str]:
    """Return the events that a guardrail runs at; one that does not plainly name them may run at any."""
    if isinstance(hook, str):
        return {str(getattr(hook, "value", hook))}
    if isinstance(hook, list):
        return {event for item in hook for event in _events(item)}
    return {"any"}
