"""Who calls through LiteLLM, and under what: read from the metadata that LiteLLM's proxy puts beside a request.

The proxy strips ``user_api_key_*`` from what a client sends (LiteLLM 1.106.2, proxy/litellm_pre_call_utils.py, seen
2026-11-21), so these can be believed. In the SDK the calling program writes them, and may.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from litellm import constants

from sfumato.errors import ConfigurationError, InvalidParameterError
from sfumato.images.safety import Threshold, parse_threshold
from sfumato.telemetry.observer import Call
from sfumato.wire.headers import parse_trace_id

FLOOR_KEY = "gemini_image_safety_floor"
# The name is misspelt in LiteLLM 1.106.2; a version that corrects it still marks its checks with this value.
_HEALTH_CHECKER = getattr(constants, "LITTELM_INTERNAL_HEALTH_SERVICE_ACCOUNT_NAME", "litellm-internal-health-check")
_OPAQUE = re.compile(r"[0-9a-f]{64}|litellm_proxy_master_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls.

    Attributes:
        tenant: The team, else the key's hash, None outside the proxy.
        key: The key's hash, None outside the proxy.
        user: The end user that LiteLLM attributes the call to.
        floors: The safety floors in the key's and the team's metadata, as somebody wrote them.
        headers: The client's request headers, lower-case names, without credentials.
        sole_deployment: Whether the router has no other deployment of this group.
        health_check: Whether LiteLLM itself asks, to see whether the deployment works.
        span: LiteLLM's span of the request, where it traces.
        model_info: The deployment's, as the operator wrote it.
    """

    tenant: str | None = None
    key: str | None = None
    user: str | None = None
    floors: tuple[Any, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    sole_deployment: bool = True
    health_check: bool = False
    span: object | None = field(default=None, repr=False)
    model_info: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def call(self, request_id: str) -> Call:
        """Return where the request came from, for telemetry."""
        return Call(
            request_id=request_id,
            trace_id=self.trace_id,
            door="litellm",
            caller=self.key,
            idempotency_key=self.headers.get("idempotency-key"),
            traceparent=self.headers.get("traceparent"),
            tracestate=self.headers.get("tracestate"),
            parent=self.span,
        )

    @property
    def trace_id(self) -> str | None:
        """Return the trace id of the client's ``traceparent``."""
        return parse_trace_id(self.headers.get("traceparent"))

    def strictest_floor(self) -> Threshold | None:
        """Return the floor that counts.

        Raises:
            ConfigurationError: One of them is no level; never a silent OFF.
        """
        try:
            parsed = [parse_threshold(floor, param=FLOOR_KEY) for floor in self.floors]
        except InvalidParameterError as error:
            raise ConfigurationError(f"The metadata of this key or team is wrong. {error.message}") from None
        return max(parsed, key=lambda floor: floor.strictness, default=None)


def read_caller(litellm_params: Mapping[str, Any]) -> Caller:
    """Read who calls from LiteLLM's parameters of a call.

    Args:
        litellm_params: Holds ``metadata``, ``litellm_metadata`` and ``proxy_server_request``, each where there is one.
    """
    found = (litellm_params.get("metadata"), litellm_params.get("litellm_metadata"))
    buckets = [bucket for bucket in found if isinstance(bucket, Mapping)]
    request = litellm_params.get("proxy_server_request")

    def told(name: str) -> Any:
        return next((bucket[name] for bucket in buckets if bucket.get(name)), None)

    team, key = told("user_api_key_team_id"), told("user_api_key_hash")
    opaque = _opaque(str(key)) if key else None
    user = told("user_api_key_end_user_id")
    headers = request.get("headers") if isinstance(request, Mapping) else None
    # Where there is this one, the router writes there (LiteLLM 1.106.2), and the other one is the client's to write.
    routers = litellm_params.get("litellm_metadata") or litellm_params.get("metadata")
    routed = routers if isinstance(routers, Mapping) else {}
    group_size, model_info = routed.get("model_group_size"), routed.get("model_info")
    return Caller(
        tenant=str(team) if team else opaque,
        key=opaque,
        user=str(user) if user else None,
        floors=tuple(_floors(buckets)),
        headers={str(k).lower(): str(v) for k, v in headers.items()} if isinstance(headers, Mapping) else {},
        sole_deployment=not isinstance(group_size, int) or group_size <= 1,
        # A client's request always has its own request beside it, so nobody outside can claim to be the checker.
        health_check=request is None and key == _HEALTH_CHECKER,
        span=told("litellm_parent_otel_span"),
        model_info=model_info if isinstance(model_info, Mapping) else {},
    )


def parse_timeout(timeout: Any) -> float | None:
    """Return LiteLLM's ``timeout`` in seconds: a number, its text, or an ``httpx.Timeout``; None is no limit.

    LiteLLM 1.106.2 does not enforce it on custom providers; its router's default is 6000.

    Raises:
        InvalidParameterError: It is none of these, or not above zero.
    """
    value = timeout.read if isinstance(timeout, httpx.Timeout) else timeout
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds > 0:
        raise InvalidParameterError("Invalid value for 'timeout': expected seconds above zero.", param="timeout")
    return None if math.isinf(seconds) else seconds


def _floors(buckets: list[Mapping[str, Any]]) -> Iterator[Any]:
    for bucket in buckets:
        for owner in ("user_api_key_metadata", "user_api_key_team_metadata"):
            metadata = bucket.get(owner)
            if isinstance(metadata, Mapping) and metadata.get(FLOOR_KEY) is not None:
                yield metadata[FLOOR_KEY]


def _opaque(key: str) -> str:
    """Return a key's hash: LiteLLM gives a hash for its own keys, but custom authentication may give the key itself."""
    return key if _OPAQUE.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
