from __future__ import annotations

import inspect
import io
import re
from typing import Any

import pytest

from sfumato.errors import ConfigurationError, InvalidParameterError
from sfumato.images.request import CacheControl, Operation
from sfumato.images.resolution import ImageWish
from sfumato.images.variants import Variant, parse_variant
from sfumato.litellm.params import PRIVATE_KEY, Captured, build_wish, capture, repaired_cache, take
from sfumato.wire import openai_images

GENERATION, EDIT = Operation.GENERATION, Operation.EDIT


def variant(name: str = "gemini-3-pro-image") -> Variant:
    found = parse_variant(name)
    assert found
    return found


def proxied(body: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Return keyword arguments as LiteLLM's proxy gives them: the client's over the deployment's."""
    own = {"litellm_call_id": "id", "metadata": {"model_group": "g"}, "model_info": {}, "timeout": 6000.0}
    kept = {**body, "litellm_call_id": "id", "metadata": own["metadata"]}
    return {**kwargs, **body, **own, "proxy_server_request": {"body": kept, "headers": {}}}


def wish(captured: Captured, *, name: str = "gemini-3-pro-image", drop: bool = False) -> ImageWish:
    return build_wish(GENERATION, variant(name), captured, prompt="p", drop_unknown=drop)


def test_no_parameter_of_ours_is_taken_for_litellms() -> None:
    names = set(re.findall(r'given\.\w+\("(\w+)"', inspect.getsource(openai_images)))
    names |= {"imageConfig", "image_config", "safety_settings", "images", "aspect_ratio", "image_size"}
    names -= {"model", "prompt"}

    assert len(names) > 20
    assert set(capture(dict.fromkeys(names, "x"), GENERATION).fields) == names
    assert set(capture(dict.fromkeys(names, "x"), EDIT).fields) == names - {"image", "mask"}


def test_the_clients_words_and_the_deployments_stand_apart() -> None:
    captured = capture(
        proxied({"n": 2, "size": "1024x1024", "foo": 1}, quality="low", safety_threshold="MEDIUM"), GENERATION
    )

    assert captured.fields == {"n": 2, "size": "1024x1024", "foo": 1}
    assert captured.defaults == {"quality": "low", "safety_threshold": "MEDIUM"}
    assert captured.judged


def test_an_unknown_word_of_the_client_is_refused_by_name() -> None:
    captured = capture(proxied({"foo": 1}), GENERATION)

    with pytest.raises(InvalidParameterError) as caught:
        wish(captured)
    assert (caught.value.param, caught.value.openai_code) == ("foo", "unknown_parameter")
    assert wish(captured, drop=True).n == 1


@pytest.mark.parametrize("name", ["image", "images", "mask", "messages", "input", "image[0]"])
@pytest.mark.parametrize("value", ["data:image/png;base64,AA==", [b"x"]])
def test_what_a_generation_cannot_use_is_refused_by_name(name: str, value: Any) -> None:
    in_extra_body = {"extra_body": {name: value}}
    for given in (proxied({name: value}), {name: value}, proxied(in_extra_body), in_extra_body):
        captured = capture(given, GENERATION)

        with pytest.raises(InvalidParameterError) as caught:
            wish(captured)
        assert (caught.value.param, caught.value.openai_code) == (name, "unknown_parameter")
        assert wish(captured, drop=True).n == 1


def test_messages_are_the_clients_only_where_its_body_holds_them() -> None:
    body_only = proxied({"messages": [{"role": "user"}]})
    del body_only["messages"]

    assert set(capture(body_only, GENERATION).fields) == {"messages"}
    assert not capture({**proxied({}), "messages": [{"role": "user"}], "input": "x"}, GENERATION).fields
    # LiteLLM keeps an edit's body only after its guardrails have added to it.
    assert not capture(proxied({"messages": [{"role": "user"}], "input": "x"}), EDIT).fields


def test_a_deployments_picture_is_nobodys_mistake_here() -> None:
    assert wish(capture(proxied({}, image="x", mask="y"), GENERATION)).n == 1


def test_an_edits_pictures_are_its_arguments() -> None:
    captured = capture(proxied({"image": [b"1"], "mask": b"2", "seed": 1}), EDIT)

    assert (captured.fields, captured.mask) == ({"seed": 1}, b"2")


def test_pictures_stay_out_of_litellms_loggers() -> None:
    optional_params: dict[str, Any] = {PRIVATE_KEY: Captured(fields={"image": "data:", "n": 2})}

    take(GENERATION, optional_params, {})

    assert optional_params == {"n": 2}


def test_an_unknown_word_of_the_deployment_is_nobodys_mistake_here() -> None:
    assert wish(capture(proxied({}, weight_of_something=1), GENERATION)).n == 1


def test_words_that_litellm_added_are_never_refused() -> None:
    body = {
        "fallbacks": ["x"],
        "tags": ["x"],
        "num_retries": 1,
        "timeout": 3,
        "vertex_location": "x",
        "ttl": 3,
        "success_callback": ["x"],
        "session_id": "x",
    }

    assert wish(capture(proxied(body), GENERATION)).n == 1


def test_a_forged_private_key_is_an_unknown_parameter() -> None:
    captured = capture(proxied({PRIVATE_KEY: {"n": 9}}), GENERATION)

    with pytest.raises(InvalidParameterError, match=PRIVATE_KEY):
        wish(captured)


def test_a_router_in_the_sdk_judges_nothing() -> None:
    assert not capture({"foo": 1, "metadata": {"model_group": "g"}}, GENERATION).judged
    assert capture({"foo": 1}, GENERATION).judged


def test_extra_body_stands_at_the_top_and_wins() -> None:
    captured = capture(
        proxied({"seed": 1, "extra_body": {"seed": 2, "prompt": "smuggled", "api_base": "http://x"}}), GENERATION
    )

    assert captured.fields == {"seed": 2}


def test_extra_body_may_be_json_text() -> None:
    assert capture(proxied({"extra_body": '{"seed": 2}'}), GENERATION).fields == {"seed": 2}


def test_an_unreadable_extra_body_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="extra_body"):
        wish(capture(proxied({"extra_body": "seed"}), GENERATION))


def test_a_deployments_extra_body_is_a_default() -> None:
    assert capture(proxied({}, extra_body={"seed": 2}), GENERATION).defaults == {"seed": 2}


def test_cache_is_recovered() -> None:
    captured = capture(proxied({"cache": {"no-cache": True, "ttl": 5}}), GENERATION)

    assert wish(captured).cache_control == CacheControl(no_cache=True, ttl_seconds=5)


def test_numbered_pictures_are_found() -> None:
    first, second = io.BytesIO(b"1"), io.BytesIO(b"2")

    captured = capture(proxied({"image[1]": second, "image[0]": first, "image_size": "2K"}), EDIT)

    assert captured.files == (first, second)
    assert captured.fields == {"image_size": "2K"}


def test_a_base_of_the_requests_own_needs_its_own_key() -> None:
    with pytest.raises(InvalidParameterError, match="api_base"):
        wish(capture(proxied({"api_base": "http://x"}), GENERATION))
    with_key = proxied({"api_base": "http://x"})
    with_key["proxy_server_request"]["credential_fields"] = ("api_key",)
    assert wish(capture(with_key, GENERATION)).n == 1


def test_captured_words_do_not_print() -> None:
    assert repr(Captured(fields={"user": "secret"})) == "Captured(...)"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"cache": '{"no-cache": true, "ttl": 5}'}, {"cache": {"no-cache": True, "ttl": 5}}),
        ({"cache": "yes"}, {}),
        ({"cache": "[1]"}, {}),
        ({"cache": {"ttl": 5}}, {"cache": {"ttl": 5}}),
        ({}, {}),
    ],
)
def test_litellm_gets_a_cache_that_it_survives(given: dict[str, Any], left: dict[str, Any]) -> None:
    assert repaired_cache(given) == left


def test_taking_leaves_plain_parameters_for_litellms_loggers() -> None:
    optional_params: dict[str, Any] = {PRIVATE_KEY: Captured(fields={"n": 2, "cache": {}}, defaults={"size": "auto"})}

    take(GENERATION, optional_params, {})

    assert optional_params == {"n": 2, "size": "auto"}


def test_without_the_hook_the_proxys_body_is_read() -> None:
    kwargs = proxied({"n": 2, "size": "1024x1024"})

    captured = take(GENERATION, {"safety_level": "HIGH"}, kwargs)

    assert captured.fields == {"n": 2, "size": "1024x1024"}
    assert captured.defaults == {"safety_level": "HIGH"}


def test_without_the_hook_and_a_proxy_what_litellm_lets_through_is_read() -> None:
    captured = take(GENERATION, {"seed": 3}, {"acompletion": None, "metadata": {}})

    assert captured == Captured(fields={"seed": 3})


def test_a_private_key_without_the_hook_counts_for_nothing() -> None:
    assert take(GENERATION, {PRIVATE_KEY: {"n": 9}, "seed": 3}, {}).fields == {"seed": 3}


def test_defaults_stand_under_the_clients_values() -> None:
    defaults = {"size": "2048x2048", "n": 2, "style": "vivid", "seed": 4, "response_format": "url", "user": "op"}
    captured = Captured(fields={"n": 1, "style": "natural"}, defaults={**defaults, "cache": {"no-store": True}})

    found = wish(captured)

    assert (found.n, found.style) == (1, "natural")
    assert (found.size, found.seed, found.response_format, found.user) == ("2048x2048", 4, "url", "op")
    assert found.cache_control.no_store


def test_a_wrong_default_is_the_operators_fault() -> None:
    with pytest.raises(ConfigurationError, match="safety_threshold"):
        wish(Captured(defaults={"safety_threshold": "MEDUIM"}))


def test_an_edit_in_the_proxy_never_goes_on_without_the_hook() -> None:
    """Its mask would be lost, and the picture billed."""
    with pytest.raises(ConfigurationError, match="hook"):
        take(EDIT, {"seed": 1}, proxied({"seed": 1}))
    assert take(EDIT, {"seed": 1}, {}).fields == {"seed": 1}
