from __future__ import annotations

import pytest
from litellm import exceptions

from sfumato import errors
from sfumato.engine.attempts import out_of_time
from sfumato.litellm.errors import LITELLM_CLASSES, translate_error


def test_every_error_has_its_row() -> None:
    assert set(LITELLM_CLASSES) == set(errors.leaves())


@pytest.mark.parametrize("kind", errors.leaves(), ids=lambda kind: kind.code)
def test_an_error_keeps_what_a_client_may_see(kind: type[errors.ImageError]) -> None:
    found = translate_error(kind("Do this.", param="size"), model="m", request_id="r")

    assert isinstance(found, LITELLM_CLASSES[kind])
    assert type(found) in exceptions.LITELLM_EXCEPTION_TYPES, "LiteLLM wraps others and leaks a traceback"
    told = vars(found)
    assert str(found).startswith(f"{kind.code}: Do this.")
    assert told["message"] == str(found)
    assert (told["type"], told["param"]) == (kind.openai_type, "size")
    assert told["provider_specific_fields"]["image_error"]["code"] == kind.code
    assert told["headers"]["x-request-id"] == "r"


@pytest.mark.parametrize("kind", errors.leaves(), ids=lambda kind: kind.code)
def test_the_status_is_the_tables(kind: type[errors.ImageError]) -> None:
    status = vars(translate_error(kind("x"), model="m", request_id="r"))["status_code"]

    # A 404 would cool the one deployment that serves every variant.
    assert status == (400 if kind is errors.ModelNotFoundError else kind.status)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in errors.leaves() if kind is not errors.UnauthorizedError],
    ids=lambda kind: kind.code,
)
def test_no_status_cools_a_lone_deployment_down(kind: type[errors.ImageError]) -> None:
    assert vars(translate_error(kind("x"), model="m", request_id="r"))["status_code"] not in (401, 402, 404, 408)


def test_the_router_is_told_not_to_repeat_what_cannot_help() -> None:
    exhausted = errors.QuotaExhaustedError("x")
    tried = errors.ServiceUnavailableError("x")
    tried.attempts = 3
    distant = errors.RateLimitedError("x", retry_after=41)
    for error in (exhausted, tried, distant, out_of_time()):
        assert vars(translate_error(error, model="m", request_id="r"))["num_retries"] == 0


def test_the_router_may_repeat_what_can_help() -> None:
    passing = errors.NetworkError("x")
    soon = errors.RateLimitedError("x", retry_after=2)
    late_upstream = errors.DeadlineError("x")
    for error in (passing, soon, late_upstream):
        assert vars(translate_error(error, model="m", request_id="r"))["num_retries"] is None


def test_another_deployment_may_always_be_tried() -> None:
    error = errors.QuotaExhaustedError("x")

    assert vars(translate_error(error, model="m", request_id="r", sole_deployment=False))["num_retries"] is None


def test_the_wait_stands_in_headers_and_message() -> None:
    found = vars(translate_error(errors.RateLimitedError("Wait.", retry_after=1.2), model="m", request_id="r"))

    assert found["headers"]["retry-after"] == "2"
    assert found["response"].headers["retry-after"] == "2"
    assert found["message"] == "IMG_RATE_LIMITED: Wait. Retry after 2 seconds."


def test_a_refusal_is_what_content_policy_fallbacks_look_for() -> None:
    found = translate_error(errors.SafetyBlockedError("x", reason="IMAGE_SAFETY"), model="m", request_id="r")

    assert isinstance(found, exceptions.ContentPolicyViolationError)
    assert vars(found)["code"] == "moderation_blocked"
