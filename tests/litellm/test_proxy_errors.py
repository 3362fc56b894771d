"""What the real proxy answers when there is no picture: named, and nothing in it that a client must not see."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from sfumato.errors import DeadlineError
from tests.conftest import Emulator
from tests.litellm.conftest import PROXY_MODEL as MODEL
from tests.litellm.conftest import edit, generate, refused
from tests.support.proxy import Proxy


@pytest.mark.parametrize(
    ("switch", "kind", "code", "told"),
    [
        ("IMAGE_SAFETY", openai.BadRequestError, "IMG_SAFETY_BLOCKED", "image_generation_user_error"),
        ("429", openai.RateLimitError, "IMG_RATE_LIMITED", "rate_limit_error"),
        ("429-day", openai.RateLimitError, "IMG_QUOTA_EXHAUSTED", "insufficient_quota"),
        ("403", openai.InternalServerError, "IMG_UPSTREAM_AUTH", "server_error"),
    ],
)
def test_upstream_errors_say_what_they_are(
    proxy: Proxy, emulator: Emulator, switch: str, kind: type[openai.APIStatusError], code: str, told: str
) -> None:
    # What a deployment's own account meets leaves the pool's accounts alone.
    error = refused(kind, generate, proxy, f"x [[emulator:{switch}]]", model="own-account")

    assert error["message"].startswith(f"{code}: ")
    assert error["type"] == told
    assert len(emulator.calls()) == 1, "the router does not repeat what cannot help"


def test_errors_of_edits_carry_more(proxy: Proxy, picture: bytes) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        edit(proxy, "x [[emulator:429-day]]", model="own-account", image=("a.png", picture))

    assert int(caught.value.response.headers["retry-after"]) > 1000
    assert caught.value.response.headers["x-should-retry"] == "false"
    detail = caught.value.response.json()["error"]["provider_specific_fields"]["image_error"]
    assert detail["code"] == "IMG_QUOTA_EXHAUSTED"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"extra_body": {"foo": 1}}, "foo"),
        ({"extra_body": {"tools": [{"type": "x"}]}}, "tools"),
        ({"extra_body": {"sfumato_params": {"n": 9}}}, "sfumato_params"),
        ({"extra_body": {"stream": True}}, "stream"),
        ({"extra_body": {"image": "data:image/png;base64,AA=="}}, "image"),
        ({"extra_body": {"mask": "data:image/png;base64,AA=="}}, "mask"),
        ({"extra_body": {"images": [{"image_url": "data:image/png;base64,AA=="}]}}, "images"),
        ({"extra_body": {"messages": [{"role": "user", "content": "y"}]}}, "messages"),
        ({"extra_body": {"input": "y"}}, "input"),
        ({"extra_body": {"cache": {"forever": True}}}, "cache.forever"),
        ({"model": f"{MODEL}-8k"}, "model"),
        ({"model": "alien"}, "model"),
        ({"n": 11}, "n"),
        ({"size": "huge"}, "size"),
    ],
)
def test_mistakes_are_named(proxy: Proxy, emulator: Emulator, options: dict[str, Any], param: str) -> None:
    error = refused(openai.BadRequestError, generate, proxy, "x", **options)

    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert not emulator.calls()


def test_a_wrong_cache_in_a_form_is_a_bad_request(proxy: Proxy, picture: bytes) -> None:
    error = refused(openai.BadRequestError, edit, proxy, "x", image=("a.png", picture), extra_body={"cache": "yes"})

    assert error["param"] == "cache"


def test_a_mistyped_variant_blocks_nobody(proxy: Proxy) -> None:
    refused(openai.BadRequestError, generate, proxy, "x", model=f"{MODEL}-8k")

    assert generate(proxy, "after the mistake").status_code == 200


def test_a_timeout_is_kept(proxy: Proxy) -> None:
    error = refused(
        openai.InternalServerError,
        generate,
        proxy,
        "x [[emulator:latency:30]]",
        extra_body={"timeout": 0.3, "num_retries": 0},
    )

    assert error["message"].startswith("IMG_TIMEOUT: ")
    assert error["code"] == "504"


def test_our_own_deadline_is_not_repeated(proxy: Proxy, emulator: Emulator) -> None:
    prompt, patience = "x [[emulator:stall-before:20]]", {"timeout": 1}

    error = refused(openai.InternalServerError, generate, proxy, prompt, extra_body=patience)

    assert error["message"].startswith("IMG_TIMEOUT: ")
    assert error["code"] == str(DeadlineError.status) == "504"
    assert len(emulator.calls()) == 1


def test_a_wrong_default_is_the_operators_fault(proxy: Proxy) -> None:
    error = refused(openai.InternalServerError, generate, proxy, "x", model="wrong-default")

    assert error["message"].startswith("IMG_CONFIGURATION: ")


def test_a_wrong_floor_is_never_off(proxy: Proxy, emulator: Emulator) -> None:
    error = refused(openai.InternalServerError, generate, proxy, "x", key="sk-wrong-floor")

    assert "gemini_image_safety_floor" in error["message"]
    assert not emulator.calls()


def test_the_log_tells_of_requests_and_of_no_key(proxy: Proxy) -> None:
    refused(openai.BadRequestError, generate, proxy, "Canary of the log", extra_body={"foo": 1})

    log = proxy.log.read_text()
    assert '"error_code":"IMG_INVALID_PARAMETER"' in log
    assert "pool-key" not in log
    assert "sk-team-a" not in log
