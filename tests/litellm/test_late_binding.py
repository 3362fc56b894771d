"""When LiteLLM gets pictures and when tokens for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import litellm
import pytest
from litellm.caching.caching import Cache
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.integrations.custom_logger import CustomLogger
from litellm.integrations.langsmith import LangsmithLogger
from litellm.integrations.opentelemetry import OpenTelemetry
from litellm.integrations.s3_v2 import S3Logger
from litellm.router import Router
from litellm.types.guardrails import GuardrailEventHooks, Mode

from sfumato.errors import ConfigurationError
from sfumato.litellm.hooks import ImageHooks
from sfumato.litellm.late_binding import LateBinding

CALL = SimpleNamespace(dynamic_success_callbacks=None, dynamic_async_success_callbacks=None)


class Teller(CustomLogger):
    """An operator's own, which tells of calls before they are made."""

    async def async_log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        pass


class Keeper(CustomLogger):
    """An operator's own, which is given answers."""

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        pass


class Checker(CustomLogger):
    """An operator's own, which may change answers."""

    async def async_post_call_success_hook(self, data: Any, user_api_key_dict: Any, response: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def callbacks() -> Iterator[list[Any]]:
    """LiteLLM's callbacks, none of them and no cache to begin with."""
    names = ("callbacks", "success_callback", "_async_success_callback", "cache", "cold_storage_custom_logger")
    before = {name: getattr(litellm, name) for name in names}
    for name in names[:3]:
        setattr(litellm, name, [])
    litellm.cache = litellm.cold_storage_custom_logger = None
    yield litellm.callbacks
    for name, value in before.items():
        setattr(litellm, name, value)


def applies(choice: object = None, call: Any = CALL) -> bool:
    return LateBinding().applies(choice, call)


def instance(kind: type[Any]) -> Any:
    """Return an integration without what its constructor connects to."""
    return object.__new__(kind)


def test_pictures_are_bound_late_where_nothing_needs_them() -> None:
    assert applies()


@pytest.mark.parametrize(
    "callback",
    [
        "prometheus",
        "otel",
        "datadog",
        Teller(),
        ImageHooks(),
        instance(OpenTelemetry),
        Router.sync_deployment_callback_on_success,
    ],
)
def test_what_tells_of_calls_needs_no_pictures(callbacks: list[Any], callback: Any) -> None:
    callbacks.append(callback)

    assert applies()


def notify(*args: Any) -> None:
    """Stand for an operator's function under `success_callback`."""


def arize() -> Any:
    """Return OpenTelemetry as LiteLLM builds it for Arize."""
    logger = instance(OpenTelemetry)
    logger.callback_name = "arize"
    return logger


def patched() -> Any:
    """Return an operator's own that is given answers without a class of its own that says so."""
    logger = Teller()
    logger.log_success_event = notify  # type: ignore[method-assign]  # what this is about
    return logger


@pytest.mark.parametrize(
    "callback",
    [
        *("s3_v2", "gcs_bucket", "langfuse", "of a later version"),
        *(instance(S3Logger), instance(LangsmithLogger), arize()),
        *(Keeper(), Checker(), patched(), notify),
    ],
)
@pytest.mark.parametrize("place", ["callbacks", "success_callback", "_async_success_callback"])
def test_what_may_look_at_answers_gets_pictures(place: str, callback: Any) -> None:
    getattr(litellm, place).append(callback)

    assert not applies()
    assert applies(choice=True), "the operator knows better"


@pytest.mark.parametrize(
    "name",
    [
        *("log_success_event", "async_log_success_event", "logging_hook", "async_logging_hook"),
        *("async_post_call_success_hook", "async_post_call_success_deployment_hook"),
        "async_post_call_response_headers_hook",
    ],
)
def test_every_hook_that_is_given_answers_counts(callbacks: list[Any], name: str) -> None:
    callbacks.append(type("Own", (CustomLogger,), {name: notify, "__module__": "operator"})())

    assert not applies()


def test_a_guardrail_that_logs_answers_gets_pictures(callbacks: list[Any]) -> None:
    kind = type("Own", (CustomGuardrail,), {"async_log_success_event": notify})
    callbacks.append(kind(guardrail_name="guard", event_hook="pre_call"))

    assert not applies()


@pytest.mark.parametrize("name", ["dynamic_success_callbacks", "dynamic_async_success_callbacks"])
def test_a_keys_own_callbacks_count(name: str) -> None:
    assert not applies(call=SimpleNamespace(**{**vars(CALL), name: ["s3_v2"]}))


@pytest.mark.parametrize(
    ("hook", "late"),
    [
        (GuardrailEventHooks.pre_call, True),
        ("during_call", True),
        ([GuardrailEventHooks.pre_call, "during_call"], True),
        (GuardrailEventHooks.post_call, False),
        (["pre_call", "post_call"], False),
        ("logging_only", False),
        (Mode(tags={"a": "pre_call"}), False),
        (None, False),
    ],
)
def test_guardrails_that_look_at_answers_get_pictures(callbacks: list[Any], hook: Any, late: bool) -> None:  # noqa: FBT001  # a table's column
    callbacks.append(CustomGuardrail(guardrail_name="guard", event_hook=hook))

    assert applies() is late
    assert applies(choice=True)


@pytest.mark.parametrize("types", [["aimage_generation"], ["acompletion", "aimage_edit"], None])
def test_litellms_cache_never_holds_tokens(types: Any) -> None:
    litellm.cache = Cache(supported_call_types=types)

    assert not applies()
    assert not applies(choice=True)


def test_litellms_cache_of_other_calls_is_no_matter() -> None:
    litellm.cache = Cache()

    assert applies()


def test_cold_storage_gets_pictures() -> None:
    litellm.cold_storage_custom_logger = "s3_v2"

    assert not applies()


@pytest.mark.parametrize(
    ("name", "value"), [("cache", None), ("cold_storage_custom_logger", None), ("callbacks", None), ("callbacks", 1)]
)
def test_a_litellm_that_keeps_its_callbacks_elsewhere_gets_pictures(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sfumato")
    if value is None:
        # A module finds what is not in it through this: LiteLLM loads most of itself so.
        monkeypatch.setattr(litellm, "__getattr__", missing)
        monkeypatch.delattr(litellm, name)
    else:
        monkeypatch.setattr(litellm, name, value)

    assert not applies()
    assert caplog.messages == ["Pictures pass through LiteLLM and are not bound late: LiteLLM's callbacks have changed"]


def missing(name: str) -> None:
    raise AttributeError(name)


def test_an_instance_is_looked_at_whatever_its_class_was_before(callbacks: list[Any]) -> None:
    callbacks.append(Teller())
    assert applies()
    callbacks.append(patched())
    assert not applies()


@pytest.mark.parametrize("choice", ["false", 0, 1, {}])
def test_a_choice_that_is_none_is_refused(choice: object) -> None:
    with pytest.raises(ConfigurationError, match="late_binding"):
        applies(choice)


def test_each_reason_is_told_once(callbacks: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sfumato")
    callbacks.append(Keeper())
    rule = LateBinding()

    for _ in range(3):
        rule.applies(choice=None, logging_obj=CALL)
        rule.applies(choice=False, logging_obj=CALL)

    assert [record.message for record in caplog.records if record.name == "sfumato"] == [
        "Pictures pass through LiteLLM and are not bound late: the callback Keeper may look at answers"
    ]
