from __future__ import annotations

from typing import Any

import httpx
import pytest

from sfumato.errors import ConfigurationError, InvalidParameterError
from sfumato.images.safety import Threshold
from sfumato.litellm.caller import parse_timeout, read_caller

HEALTH = "litellm-internal-health-check"


def metadata(**values: Any) -> dict[str, Any]:
    return {"metadata": {f"user_api_key_{name}": value for name, value in values.items()}}


def test_outside_the_proxy_nobody_is_known() -> None:
    caller = read_caller({"metadata": None})

    assert (caller.tenant, caller.user, caller.strictest_floor(), caller.trace_id) == (None, None, None, None)
    assert caller.sole_deployment
    assert not caller.health_check


def test_the_team_is_the_tenant() -> None:
    assert read_caller(metadata(team_id="team", hash="a" * 64)).tenant == "team"


def test_without_a_team_the_keys_hash_is() -> None:
    assert read_caller(metadata(hash="a" * 64)).tenant == "a" * 64
    assert read_caller(metadata(hash="litellm_proxy_master_key")).tenant == "litellm_proxy_master_key"


def test_a_key_that_custom_authentication_left_plain_is_hashed() -> None:
    tenant = read_caller(metadata(hash="plain-secret")).tenant

    assert tenant
    assert "plain" not in tenant
    assert len(tenant) == 64


def test_edits_have_the_metadata_in_two_places() -> None:
    caller = read_caller({**metadata(end_user_id="ann"), "litellm_metadata": {"model_group_size": 2}})

    assert caller.user == "ann"
    assert not caller.sole_deployment


def test_what_a_client_says_of_an_edits_deployment_counts_for_nothing() -> None:
    said = {"model_info": {"late_binding": True}, "model_group_size": 2, "user_api_key_hash": "a" * 64}

    caller = read_caller({"metadata": said, "litellm_metadata": {"model_info": {"late_binding": False}}})

    assert caller.model_info == {"late_binding": False}
    assert caller.sole_deployment


def test_the_trace_is_the_clients() -> None:
    headers = {"Traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}

    assert read_caller({"proxy_server_request": {"headers": headers}}).trace_id == "a" * 32


def test_telemetry_learns_where_a_call_came_from() -> None:
    span = object()
    headers = {"Traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "x=1", "Idempotency-Key": "once"}
    told = {**metadata(team_id="team", hash="c" * 64), "proxy_server_request": {"headers": headers}}
    told["metadata"]["litellm_parent_otel_span"] = span

    call = read_caller(told).call("r")

    assert (call.request_id, call.door, call.caller, call.trace_id) == ("r", "litellm", "c" * 64, "a" * 32)
    assert (call.traceparent, call.tracestate) == (headers["Traceparent"], "x=1")
    assert call.idempotency_key == "once"
    assert call.parent is span
    assert "once" not in repr(call)


def test_outside_the_proxy_a_call_is_nobodys() -> None:
    call = read_caller({}).call("r")

    assert (call.caller, call.idempotency_key, call.traceparent, call.parent) == (None, None, None, None)


def test_a_plain_key_is_no_caller() -> None:
    caller = read_caller(metadata(hash="plain-secret")).call("r").caller

    assert caller
    assert "plain" not in caller


def test_the_deployments_words_are_found() -> None:
    assert read_caller({"metadata": {"model_info": {"late_binding": False}}}).model_info == {"late_binding": False}


def test_the_strictest_floor_counts() -> None:
    key, team = {"gemini_image_safety_floor": "low"}, {"gemini_image_safety_floor": "MEDIUM"}

    assert read_caller(metadata(metadata=key, team_metadata=team)).strictest_floor() is Threshold.BLOCK_MEDIUM_AND_ABOVE
    assert read_caller(metadata(metadata=key, team_metadata=None)).strictest_floor() is Threshold.BLOCK_ONLY_HIGH


@pytest.mark.parametrize("value", ["MEDUIM", "", 3, False])
def test_a_wrong_floor_is_never_off(value: object) -> None:
    caller = read_caller(metadata(metadata={"gemini_image_safety_floor": value}))

    with pytest.raises(ConfigurationError, match="gemini_image_safety_floor"):
        caller.strictest_floor()


def test_only_litellm_itself_checks_its_health() -> None:
    assert read_caller(metadata(hash=HEALTH)).health_check
    assert not read_caller({**metadata(hash=HEALTH), "proxy_server_request": {"body": {}}}).health_check


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (None, None),
        (6000.0, 6000.0),
        ("2.5", 2.5),
        (httpx.Timeout(3), 3.0),
        (httpx.Timeout(None), None),
        (float("inf"), None),
    ],
)
def test_timeouts_are_seconds(timeout: object, seconds: float | None) -> None:
    assert parse_timeout(timeout) == seconds


@pytest.mark.parametrize("timeout", ["soon", 0, -1, float("nan"), True, {}])
def test_a_wrong_timeout_is_refused(timeout: object) -> None:
    with pytest.raises(InvalidParameterError, match="timeout"):
        parse_timeout(timeout)
