"""Recover the parameters that LiteLLM drops; the one quarantined place.

LiteLLM 1.106.2 (seen 2026-11-21) never hands a custom provider ``n``, ``size``, ``quality``, ``style``,
``response_format``, ``user``, ``imageConfig``, ``mask`` and ``cache``. Its deployment hook sees them all, after
routing, so our hook captures them there under a private key (`capture`), and the provider takes them out (`take`).
The hook runs in async calls only: a synchronous SDK call has what LiteLLM lets through.

Whose a word is decides whether it is judged. LiteLLM's own are never held against a client, also where they do nothing
(``session_id`` is read by its provider affinity). ``image`` and ``mask`` are an edit's arguments and a generation's
mistakes. ``messages`` and ``input`` are nobody's at a generation if the client's body holds them: LiteLLM keeps that
body before it adds ``messages`` of its own for guardrails. An edit's body it keeps afterwards, so there they are left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from litellm.types.utils import is_litellm_owned_kwarg

from sfumato.errors import ConfigurationError, ImageError, InvalidParameterError
from sfumato.images.request import ImageSource, Operation
from sfumato.images.resolution import ImageWish, with_defaults
from sfumato.images.variants import Variant
from sfumato.wire.openai_images import parse_request

PRIVATE_KEY = "sfumato_params"
# LiteLLM counts it as its own, and it is ours too.
_SHARED = frozenset({"cache"})
# What LiteLLM, its router and the OpenAI clients put beside the parameters and `is_litellm_owned_kwarg` does not list.
_LITELLM_KEYS = frozenset(
    {
        *("model", "prompt", "api_type", "base_url", "organization", "project"),
        *("extra_body", "extra_headers", "extra_query", "default_headers", "timeout", "deployment_id", "deployment"),
        *("drop_params", "additional_drop_params", "specific_deployment", "user_config", "original_function"),
        *("context_window_fallbacks", "content_policy_fallbacks", "disable_fallbacks", "model_group_retry_policy"),
        *("litellm_params", "call_type", "start_time", "standard_logging_object", "policies", "guardrail_config"),
        *("success_callback", "failure_callback", "session_id", "trace_id", "custom_llm_provider"),
    }
)
_CHAT_WORDS = frozenset({"messages", "input"})
_EDIT_ARGUMENTS = frozenset({"image", "mask"})
_LITELLM_PREFIXES = ("_", "aws_", "litellm_", "mock_testing_", "vertex_", "metadata[", "litellm_metadata[")
_FILE_NAME = re.compile(r"image(?:\[\d*\]|\d{1,2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """The parameters of one call.

    Attributes:
        fields: What the client sent, ``extra_body`` merged in.
        defaults: What the deployment's ``litellm_params`` add; unknown in the SDK, where both are one.
        judged: Whether *fields* hold the client's words only, so that an unknown one is the client's mistake.
        files: Pictures that came under numbered names (``image[0]``, ``image1``).
        mask: The mask as LiteLLM holds it: a file object, a list of them, bytes or base64.
        own_base: Whether the request itself names an ``api_base`` and no key.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    judged: bool = True
    files: tuple[Any, ...] = ()
    mask: Any = None
    own_base: bool = False

    def __repr__(self) -> str:
        # Loggers of LiteLLM print what they find in the parameters.
        return "Captured(...)"


def capture(kwargs: Mapping[str, Any], operation: Operation) -> Captured:
    """Read a call's parameters from LiteLLM's keyword arguments, whatever else stands among them."""
    edit = operation is Operation.EDIT
    request = kwargs.get("proxy_server_request")
    body = request.get("body") if isinstance(request, Mapping) else None
    proxied = isinstance(body, Mapping)
    apart = _CHAT_WORDS | _EDIT_ARGUMENTS if edit else _CHAT_WORDS
    given = {name: value for name, value in _ours(kwargs).items() if name not in apart}
    numbered = sorted(name for name in given if edit and _FILE_NAME.fullmatch(name) and _is_file(given[name]))
    files = tuple(given.pop(name) for name in numbered)
    client = {name: value for name, value in given.items() if name in body} if isinstance(body, Mapping) else given
    defaults = {name: value for name, value in given.items() if name not in client}
    if not edit:
        words = body if isinstance(body, Mapping) else kwargs
        client |= {name: words[name] for name in sorted(_CHAT_WORDS) if words.get(name) is not None}
    extra = _extra_body(kwargs.get("extra_body"))
    # A deployment's extra_body is replaced by a request's, never merged (LiteLLM 1.106.2).
    (client if not isinstance(body, Mapping) or "extra_body" in body else defaults).update(extra)
    return Captured(
        fields=client,
        defaults=defaults,
        judged=proxied or not _is_routed(kwargs),
        files=files,
        mask=kwargs.get("mask") if edit else None,
        own_base=isinstance(body, Mapping) and bool({"api_base", "base_url"} & set(body)) and not _has_key(request),
    )


def take(
    operation: Operation, optional_params: dict[str, Any], litellm_params: Mapping[str, Any], logging_obj: Any = None
) -> Captured:
    """Take the captured parameters out of what LiteLLM hands to a provider, and leave them there in the open.

    Without the hook (a synchronous call) what LiteLLM lets through is read instead; not so for an edit in the proxy,
    which would lose its mask. LiteLLM's loggers then find the parameters where those of any provider stand.

    Args:
        operation: What was called.
        optional_params: The provider's argument; changed in place.
        litellm_params: Where LiteLLM keeps its own parameters of the call.
        logging_obj: LiteLLM's log of the call, which has copied the private key.

    Raises:
        ConfigurationError: The hook was not called for an edit in the proxy.
    """
    captured = optional_params.pop(PRIVATE_KEY, None)
    details = getattr(logging_obj, "model_call_details", None)
    if isinstance(details, dict):
        details.pop(PRIVATE_KEY, None)
    if not isinstance(captured, Captured):
        request = litellm_params.get("proxy_server_request")
        if operation is Operation.EDIT and isinstance(request, Mapping):
            raise ConfigurationError(
                "LiteLLM did not call sfumato's hook, and may have dropped a mask. Send the request again. If this "
                "persists, the operator must look for what replaces LiteLLM's callbacks.",
                retryable=True,
            )
        body = request.get("body") if isinstance(request, Mapping) else None
        context = {name: litellm_params.get(name) for name in ("metadata", "litellm_metadata", "proxy_server_request")}
        captured = capture({**optional_params, **(body if isinstance(body, Mapping) else {}), **context}, operation)
    shown = {k: v for k, v in {**captured.defaults, **captured.fields}.items() if k not in _EDIT_ARGUMENTS}
    optional_params.update({k: v for k, v in shown.items() if isinstance(v, str | int | float | bool)})
    return captured


def repaired_cache(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return *kwargs* with a ``cache`` that LiteLLM survives.

    A form's ``cache`` is text, on which LiteLLM 1.106.2 calls ``.get`` and answers with a traceback. Ours is captured
    before, and refused if it is wrong.
    """
    cache = kwargs.get("cache")
    if cache is None or isinstance(cache, dict):
        return kwargs
    parsed = _json_object(cache)
    kept = {name: value for name, value in kwargs.items() if name != "cache"}
    return kept if parsed is None else {**kept, "cache": parsed}


def build_wish(
    operation: Operation,
    variant: Variant,
    captured: Captured,
    *,
    prompt: str | None,
    files: Sequence[ImageSource] = (),
    mask: ImageSource | None = None,
    others: Sequence[Any] = (),
    tenant: str | None = None,
    user: str | None = None,
    drop_unknown: bool = False,
) -> ImageWish:
    """Read the captured parameters as a wish, the deployment's defaults under the client's own values.

    Args:
        operation: What was called.
        variant: What the model's name means.
        captured: The parameters.
        prompt: LiteLLM's argument, which guardrails may have changed.
        files: Pictures as bytes.
        mask: The mask as bytes.
        others: Pictures in JSON's forms: data URIs, base64, addresses.
        tenant: Who is asking.
        user: Attribution when the client sent none.
        drop_unknown: Ignore unknown parameters instead of refusing them.

    Raises:
        InvalidParameterError: The client's value is wrong, or its name is not known.
        InvalidImageError: A picture in JSON has no readable form.
        ConfigurationError: The deployment's default is wrong.
    """
    if captured.own_base:
        raise InvalidParameterError("'api_base' cannot be set without a key of your own.", param="api_base")
    fields = {**captured.fields, "prompt": prompt}
    if others:
        fields["image"] = list(others)
    drop = drop_unknown or not captured.judged
    wish = parse_request(operation, variant, fields, files=files, mask=mask, drop_unknown=drop, tenant=tenant)
    wish = replace(wish, user=wish.user or user)
    if captured.defaults:
        try:
            base = parse_request(operation, variant, captured.defaults, drop_unknown=True)
        except ImageError as error:
            found = error
        else:
            sent = {"cache_control" if name == "cache" else name for name in captured.fields}
            return with_defaults(wish, base, sent=sent)
        raise ConfigurationError(f"The deployment's litellm_params are wrong. {found.message}")
    return wish


def _ours(words: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in words.items() if value is not None and not _is_litellms(name, value)}


def _is_litellms(name: str, value: Any) -> bool:
    if name in _SHARED:
        return False
    return (
        isinstance(value, Captured)
        or name in _LITELLM_KEYS
        or name.startswith(_LITELLM_PREFIXES)
        or is_litellm_owned_kwarg(name)
    )


def _is_file(value: Any) -> bool:
    return hasattr(value, "read") or isinstance(value, bytes | list | tuple)


def _is_routed(kwargs: Mapping[str, Any]) -> bool:
    """Tell whether LiteLLM's router made this call: a deployment's own keys then stand among the caller's."""
    buckets = (kwargs.get("metadata"), kwargs.get("litellm_metadata"))
    return any(isinstance(bucket, Mapping) and "model_group" in bucket for bucket in buckets)


def _has_key(request: Any) -> bool:
    # LiteLLM takes credentials out of the body it keeps, and lists their names.
    return "api_key" in request["body"] or "api_key" in (request.get("credential_fields") or ())


def _extra_body(value: Any) -> Mapping[str, Any]:
    """Return the parameters in an ``extra_body``; one that cannot be read stays a parameter, to be refused."""
    if value is None:
        return {}
    parsed = _json_object(value)
    if parsed is None:
        return {"extra_body": value}
    return _ours(parsed)


def _json_object(value: Any) -> dict[str, Any] | None:
    """Return an object, also from its JSON text, which is how a form sends it."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.MsgspecError:
            return None
    return {str(name): item for name, item in value.items()} if isinstance(value, Mapping) else None
