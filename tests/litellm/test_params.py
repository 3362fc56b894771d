from __future__ import annotations

import inspect
import io
import re
from typing import Any

import pytest

from sfumato.errors import ConfigurationError, InvalidParameterError
from sfumato.images.request import CacheControl, Operation
from sfumato.images.resolution import ImageWish
from sfumato.images.safety import Threshold
from sfumato.images.variants import Variant, parse_variant
from sfumato.litellm.params import PRIVATE_KEY, Captured, build_wish, capture, repaired_cache, take
from sfumato.wire import openai_images


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
    return build_wish(Operation.GENERATION, variant(name), captured, prompt="p", drop_unknown=drop)


def test_no_parameter_of_ours_is_taken_for_litellms() -> None:
    names = set(re.findall(r'given\.\w+\("(\w+)"', inspect.getsource(openai_images)))
    names |= {"imageConfig", "image_config", "safety_settings", "images", "aspect_ratio", "image_size"}
    names -= {"model", "prompt", "mask", "image"}

    assert len(names) > 20
    assert set(capture(dict.fromkeys(names, "x")).fields) == names


def test_the_clients_words_and_the_deployments_stand_apart() -> None:
    captured = capture(proxied({"n": 2, "size": "1024x1024", "foo": 1}, quality="low", safety_threshold="MEDIUM"))

    assert captured.fields == {"n": 2, "size": "1024x1024", "foo": 1}
    assert captured.defaults == {"quality": "low", "safety_threshold": "MEDIUM"}
    assert captured.judged


def test_an_unknown_word_of_the_client_is_refused_by_name() -> None:
    captured = capture(proxied({"foo": 1}))

    with pytest.raises(InvalidParameterError) as caught:
        wish(captured)
    assert (caught.value.param, caught.value.openai_code) == ("foo", "unknown_parameter")
    assert wish(captured, drop=True).n == 1


def test_an_unknown_word_of_the_deployment_is_nobodys_mistake_here() -> None:
    assert wish(capture(proxied({}, weight_of_something=1))).n == 1


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

    assert wish(capture(proxied(body))).n == 1


def test_a_forged_private_key_is_an_unknown_parameter() -> None:
    captured = capture(proxied({PRIVATE_KEY: {"n": 9}}))

    with pytest.raises(InvalidParameterError, match=PRIVATE_KEY):
        wish(captured)


def test_a_router_in_the_sdk_judges_nothing() -> None:
    assert not capture({"foo": 1, "metadata": {"model_group": "g"}}).judged
    assert capture({"foo": 1}).judged


def test_extra_body_stands_at_the_top_and_wins() -> None:
    captured = capture(proxied({"seed": 1, "extra_body": {"seed": 2, "prompt": "smuggled", "api_base": "http://x"}}))

    assert captured.fields == {"seed": 2}


def test_extra_body_may_be_json_text() -> None:
    assert capture(proxied({"extra_body": '{"seed": 2}'})).fields == {"seed": 2}


def test_an_unreadable_extra_body_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="extra_body"):
        wish(capture(proxied({"extra_body": "seed"})))


def test_a_deployments_extra_body_is_a_default() -> None:
    assert capture(proxied({}, extra_body={"seed": 2})).defaults == {"seed": 2}


def test_cache_is_recovered() -> None:
    captured = capture(proxied({"cache": {"no-cache": True, "ttl": 5}}))

    assert wish(captured).cache_control == CacheControl(no_cache=True, ttl_seconds=5)


def test_numbered_pictures_are_found() -> None:
    first, second = io.BytesIO(b"1"), io.BytesIO(b"2")

    captured = capture(proxied({"image[1]": second, "image[0]": first, "image_size": "2K"}))

    assert captured.files == (first, second)
    assert captured.fields == {"image_size": "2K"}


def test_a_base_of_the_requests_own_needs_its_own_key() -> None:
    with pytest.raises(InvalidParameterError, match="api_base"):
        wish(capture(proxied({"api_base": "http://x"})))
    with_key = proxied({"api_base": "http://x"})
    with_key["proxy_server_request"]["credential_fields"] = ("api_key",)
    assert wish(capture(with_key)).n == 1


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

    take(optional_params, {})

    assert optional_params == {"n": 2, "size": "auto"}


def test_without_the_hook_the_proxys_body_is_read() -> None:
    kwargs = proxied({"n": 2, "size": "1024x1024"})

    captured = take({"safety_level": "HIGH"}, kwargs)

    assert captured.fields == {"n": 2, "size": "1024x1024"}
    assert captured.defaults == {"safety_level": "HIGH"}


def test_without_the_hook_and_a_proxy_what_litellm_lets_through_is_read() -> None:
    captured = take({"seed": 3}, {"acompletion": None, "metadata": {}})

    assert captured == Captured(fields={"seed": 3})


def test_a_private_key_without_the_hook_counts_for_nothing() -> None:
    assert take({PRIVATE_KEY: {"n": 9}, "seed": 3}, {}).fields == {"seed": 3}


def test_defaults_stand_under_the_clients_values() -> None:
    defaults = {"size": "2048x2048", "n": 2, "style": "vivid", "seed": 4, "response_format": "url", "user": "op"}
    captured = Captured(fields={"n": 1, "style": "natural"}, defaults={**defaults, "cache": {"no-store": True}})

    found = wish(captured)

    assert (found.n, found.style) == (1, "natural")
    assert (found.size, found.seed, found.response_format, found.user) == ("2048x2048", 4, "url", "op")
    assert found.cache_control.no_store


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gemini-3-pro-image-4k-16x9", {}),
        ("gemini-3-pro-image", {"size": "1024x1024"}),
        ("gemini-3-pro-image", {"aspect_ratio": "4:3", "image_size": "4K"}),
    ],
)
def test_a_default_steps_back_from_what_the_client_said_otherwise(name: str, fields: dict[str, Any]) -> None:
    captured = Captured(fields=fields, defaults={"aspect_ratio": "1:1", "image_size": "2K", "quality": "low"})

    found = wish(captured, name=name)

    assert (found.aspect_ratio, found.image_size) == (fields.get("aspect_ratio"), fields.get("image_size"))
    assert found.quality is None


def test_an_automatic_size_says_nothing() -> None:
    found = wish(Captured(fields={"size": "auto"}, defaults={"aspect_ratio": "1:1", "image_size": "2K"}))

    assert (found.aspect_ratio, found.image_size) == ("1:1", "2K")


def test_a_default_compression_goes_with_its_format_only() -> None:
    defaults = {"output_format": "webp", "output_compression": 50}

    assert wish(Captured(defaults=defaults)).output_compression == 50
    assert wish(Captured(fields={"output_format": "png"}, defaults=defaults)).output_compression is None


def test_a_level_of_the_client_replaces_the_default_safety() -> None:
    defaults = {"safety_threshold": "MEDIUM", "safety_settings": [{"category": "HARASSMENT", "threshold": "OFF"}]}

    safety = wish(Captured(fields={"safety_level": "HIGH"}, defaults=defaults)).safety

    assert safety.threshold is Threshold.BLOCK_LOW_AND_ABOVE
    assert not safety.exceptions


def test_a_category_of_the_client_leaves_the_default_level() -> None:
    settings = [{"category": "HARASSMENT", "threshold": "HIGH"}]

    safety = wish(Captured(fields={"safety_settings": settings}, defaults={"safety_threshold": "MEDIUM"})).safety

    assert safety.threshold is Threshold.BLOCK_MEDIUM_AND_ABOVE
    assert set(safety.exceptions.values()) == {Threshold.BLOCK_LOW_AND_ABOVE}


def test_a_wrong_default_is_the_operators_fault() -> None:
    with pytest.raises(ConfigurationError, match="safety_threshold"):
        wish(Captured(defaults={"safety_threshold": "MEDUIM"}))
