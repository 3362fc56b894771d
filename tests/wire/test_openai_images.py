from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import ImagesResponse

from sfumato.errors import (
    ImageError,
    InvalidImageError,
    InvalidParameterError,
    NoImageError,
    RateLimitedError,
    SafetyBlockedError,
    UserError,
    leaves,
)
from sfumato.images.models import FAMILIES
from sfumato.images.request import (
    CacheControl,
    GeneratedImage,
    ImageRequest,
    ImageResult,
    ImageSource,
    Operation,
    Picture,
    ResponseFormat,
    SlotFailure,
    Usage,
)
from sfumato.images.resolution import ImageWish, SafetyWish
from sfumato.images.safety import CLASSIC_CATEGORIES, IMAGE_CATEGORIES, Method, Safety, Threshold
from sfumato.images.variants import Variant
from sfumato.wire.openai_images import parse_request, render_error, render_response
from sfumato.wire.payload import join

VARIANT = Variant(FAMILIES[0])
T = Threshold
HARASSMENT, HATE = CLASSIC_CATEGORIES[:2]
IMAGE_HATE = IMAGE_CATEGORIES[0]
GENERATION, EDIT = Operation.GENERATION, Operation.EDIT


def parse(fields: dict[str, Any], operation: Operation = GENERATION, **options: Any) -> ImageWish:
    return parse_request(operation, VARIANT, fields, **options)


def refused(fields: dict[str, Any], operation: Operation = GENERATION, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        parse(fields, operation, **options)
    return caught.value


# --- parameters ---


def test_without_parameters_the_wish_is_empty() -> None:
    assert parse({}) == ImageWish(operation=GENERATION, variant=VARIANT, prompt=None)


# name, JSON value, the same as a form's string, the field it fills, what it means
PARAMETERS: list[tuple[str, Any, str, str, Any]] = [
    ("prompt", "a cat", "a cat", "prompt", "a cat"),
    ("n", 4, "4", "n", 4),
    ("size", "1024x1024", "1024x1024", "size", "1024x1024"),
    ("quality", "hd", "hd", "quality", "hd"),
    ("style", "in oil", "in oil", "style", "in oil"),
    ("aspect_ratio", "16:9", "16:9", "aspect_ratio", "16:9"),
    ("image_size", "2K", "2K", "image_size", "2K"),
    ("imageConfig", {"aspectRatio": "16:9"}, '{"aspectRatio":"16:9"}', "aspect_ratio", "16:9"),
    ("imageConfig", {"imageSize": "2K"}, '{"imageSize":"2K"}', "image_size", "2K"),
    ("image_config", {"aspect_ratio": "16:9"}, '{"aspect_ratio":"16:9"}', "aspect_ratio", "16:9"),
    ("image_config", {"image_size": "2K"}, '{"image_size":"2K"}', "image_size", "2K"),
    ("response_format", "url", "url", "response_format", "url"),
    ("response_format", "b64_json", "b64_json", "response_format", "b64_json"),
    ("output_format", "webp", "WebP", "output_format", "webp"),
    ("output_compression", 80, "80", "output_compression", 80),
    ("safety_level", "high", "HIGH", "safety", SafetyWish(threshold=T.BLOCK_LOW_AND_ABOVE)),
    ("safety_threshold", "BLOCK_NONE", "block_none", "safety", SafetyWish(threshold=T.BLOCK_NONE)),
    (
        "safety_settings",
        [{"category": "HARASSMENT", "threshold": "LOW"}],
        '[{"category":"harm_category_harassment","threshold":"BLOCK_ONLY_HIGH"}]',
        "safety",
        SafetyWish(exceptions={HARASSMENT: T.BLOCK_ONLY_HIGH}),
    ),
    (
        "safety_settings",
        [{"category": "IMAGE_HATE", "threshold": "LOW", "method": "SEVERITY"}],
        '[{"category":"harm_category_image_hate","threshold":"low","method":"severity"}]',
        "safety",
        SafetyWish(exceptions={IMAGE_HATE: T.BLOCK_ONLY_HIGH}, methods={IMAGE_HATE: Method.SEVERITY}),
    ),
    ("safetySettings", [], "[]", "safety", SafetyWish()),
    ("moderation", "low", "LOW", "safety", SafetyWish(moderation_low=True)),
    ("moderation", "auto", "auto", "safety", SafetyWish()),
    ("seed", 7, "7", "seed", 7),
    ("person_generation", "ALLOW_ALL", "ALLOW_ALL", "person_generation", "ALLOW_ALL"),
    ("prominent_people", "x", "x", "prominent_people", "x"),
    ("imageConfig", {"personGeneration": "x"}, '{"personGeneration":"x"}', "person_generation", "x"),
    ("image_config", {"person_generation": "x"}, '{"person_generation":"x"}', "person_generation", "x"),
    ("imageConfig", {"prominentPeople": "x"}, '{"prominentPeople":"x"}', "prominent_people", "x"),
    ("image_config", {"prominent_people": "x"}, '{"prominent_people":"x"}', "prominent_people", "x"),
    (
        "imageConfig",
        {"imageOutputOptions": {"mimeType": "image/png"}},
        '{"imageOutputOptions":{"mimeType":"image/PNG"}}',
        "output_format",
        "png",
    ),
    (
        "image_config",
        {"image_output_options": {"mime_type": "image/jpeg", "compression_quality": 60}},
        '{"image_output_options":{"mime_type":"image/jpeg","compression_quality":"60"}}',
        "output_compression",
        60,
    ),
    ("user", "u", "u", "user", "u"),
    ("safety_identifier", "s", "s", "user", "s"),
    ("cache", {"no-cache": True}, '{"no-cache":true}', "cache_control", CacheControl(no_cache=True)),
    ("background", "opaque", "AUTO", "prompt", None),
    ("stream", False, "false", "prompt", None),
    ("partial_images", 3, "0", "prompt", None),
    ("input_fidelity", "high", "low", "prompt", None),
    ("complexity", "low", "high", "prompt", None),
    ("model", "gemini-3-pro-image", "gemini-3-pro-image", "variant", VARIANT),
]


@pytest.mark.parametrize(("name", "value", "text", "field", "meaning"), PARAMETERS)
@pytest.mark.parametrize("operation", [GENERATION, EDIT])
def test_every_parameter_in_json_as_a_string_and_as_null(
    name: str, value: Any, text: str, field: str, meaning: Any, operation: Operation
) -> None:
    assert getattr(parse({name: value}, operation), field) == meaning
    assert getattr(parse({name: text}, operation), field) == meaning
    assert parse({name: None}, operation) == parse({}, operation)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"prompt": "half a pair: \ud83d"}, "prompt"),
        ({"n": "two"}, "n"),
        ({"n": True}, "n"),
        ({"size": 1024}, "size"),
        ({"seed": 1.5}, "seed"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": "x"}, "output_compression"),
        ({"response_format": "png"}, "response_format"),
        ({"background": "transparent"}, "background"),
        ({"background": "green"}, "background"),
        ({"moderation": "high"}, "moderation"),
        ({"stream": True}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream": "maybe"}, "stream"),
        ({"partial_images": 4}, "partial_images"),
        ({"partial_images": -1}, "partial_images"),
        ({"safety_level": "NONE"}, "safety_level"),
        ({"safety_level": ""}, "safety_level"),
        ({"safety_threshold": "off!"}, "safety_threshold"),
        ({"safety_level": "LOW", "safety_threshold": "OFF"}, "safety_level"),
        ({"safety_level": "OFF", "safety_threshold": "BLOCK_NONE"}, "safety_level"),
        ({"safety_settings": "x"}, "safety_settings"),
        ({"safety_settings": {"category": "x"}}, "safety_settings"),
        ({"safety_settings": ["x"]}, "safety_settings[0]"),
        ({"safety_settings": [{"category": "HARASSMENT"}]}, "safety_settings[0].threshold"),
        ({"safety_settings": [{"threshold": "LOW"}]}, "safety_settings[0].category"),
        (
            {"safetySettings": [{"category": "HARM_CATEGORY_JAILBREAK", "threshold": "LOW"}]},
            "safetySettings[0].category",
        ),
        (
            {"safety_settings": [{"category": "HARASSMENT", "threshold": "LOW", "method": "X"}]},
            "safety_settings[0].method",
        ),
        ({"safety_settings": [{"category": "HARASSMENT", "threshold": "LOW", "mode": "X"}]}, "safety_settings[0]"),
        (
            {
                "safety_settings": [
                    {"category": "HARASSMENT", "threshold": "LOW", "method": m} for m in ("SEVERITY", "PROBABILITY")
                ]
            },
            "safety_settings[1]",
        ),
        (
            {"safety_settings": [{"category": "HARASSMENT", "threshold": t} for t in ("LOW", "HIGH")]},
            "safety_settings[1]",
        ),
        ({"imageConfig": "x"}, "imageConfig"),
        ({"imageConfig": {"aspectRatio": 5}}, "imageConfig.aspectRatio"),
        ({"imageConfig": {"imageSize": "2K"}, "image_size": "4K"}, "imageConfig.imageSize"),
        ({"imageConfig": {"imageSize": "2K"}, "image_config": {"imageSize": "4K"}}, "image_config.imageSize"),
        ({"imageConfig": {"aspectRatio": "1:1", "aspect_ratio": "16:9"}}, "imageConfig.aspect_ratio"),
        ({"person_generation": "A", "imageConfig": {"personGeneration": "B"}}, "imageConfig.personGeneration"),
        ({"imageConfig": {"imageOutputOptions": 5}}, "imageConfig.imageOutputOptions"),
        (
            {"imageConfig": {"imageOutputOptions": {"mimeType": "image/webp"}}},
            "imageConfig.imageOutputOptions.mimeType",
        ),
        (
            {"output_format": "png", "imageConfig": {"imageOutputOptions": {"mimeType": "image/jpeg"}}},
            "imageConfig.imageOutputOptions.mimeType",
        ),
        (
            {"output_compression": 5, "imageConfig": {"imageOutputOptions": {"compressionQuality": 6}}},
            "imageConfig.imageOutputOptions.compressionQuality",
        ),
        ({"cache": "no-cache"}, "cache"),
        ({"cache": {"no-cache": 5}}, "cache.no-cache"),
        ({"cache": {"ttl": -1}}, "cache.ttl"),
        ({"cache": {"s-maxage": 10**400}}, "cache.s-maxage"),
        ({"user": 5}, "user"),
    ],
)
def test_a_wrong_value_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(fields)
    assert isinstance(error, InvalidParameterError)
    assert (error.param, error.openai_code) == (param, "invalid_value")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"colour": False}, "colour"),
        ({"image": "AAAA"}, "image"),
        ({"mask": "AAAA"}, "mask"),
        ({"imageConfig": {"outputMimeType": "image/png"}}, "imageConfig.outputMimeType"),
        ({"imageConfig": {"imageOutputOptions": {"quality": 5}}}, "imageConfig.imageOutputOptions.quality"),
        ({"cache": {"namespace": "x"}}, "cache.namespace"),
    ],
)
def test_an_unknown_parameter_is_refused_or_dropped(fields: dict[str, Any], param: str) -> None:
    error = refused(fields)
    assert isinstance(error, InvalidParameterError)
    assert (error.param, error.openai_code) == (param, "unknown_parameter")
    assert f"'{param}'" in error.message
    assert parse(fields, drop_unknown=True) == parse({})


def test_an_unknown_name_is_told_cut_and_in_valid_unicode() -> None:
    assert refused({"x" * 1_000_000: 1}).param == "x" * 100
    assert refused({"half \ud83d": 1}).param == "half ?"


def test_null_is_absent_also_inside() -> None:
    fields = {
        "colour": None,
        "imageConfig": {"aspectRatio": None, "personGeneration": None},
        "cache": {"ttl": None, "namespace": None},
    }
    assert parse(fields) == parse({})


def test_dropping_unknown_ones_drops_no_known_one() -> None:
    assert refused({"n": "x", "colour": 1}, drop_unknown=True).param == "n"
    assert refused({"background": "transparent"}, drop_unknown=True).param == "background"


def test_gemini_s_words_may_be_said_twice_alike() -> None:
    wish = parse({"image_size": "2k", "imageConfig": {"imageSize": "2K"}, "image_config": {"image_size": "2K"}})
    assert (wish.image_size or "").upper() == "2K"


def test_levels_may_be_said_twice_alike() -> None:
    assert parse({"safety_level": "low", "safety_threshold": "BLOCK_ONLY_HIGH"}).safety.threshold is T.BLOCK_ONLY_HIGH


def test_categories_may_stand_in_both_spellings() -> None:
    wish = parse(
        {
            "safety_settings": [{"category": "HARASSMENT", "threshold": "LOW"}],
            "safetySettings": [
                {"category": "HATE_SPEECH", "threshold": "HIGH"},
                {"category": "HARASSMENT", "threshold": "LOW"},
            ],
        }
    )
    assert wish.safety.exceptions == {HARASSMENT: T.BLOCK_ONLY_HIGH, HATE: T.BLOCK_LOW_AND_ABOVE}


def test_a_category_may_be_said_twice_alike_its_method_once() -> None:
    row = {"category": "IMAGE_HATE", "threshold": "LOW"}
    wish = parse({"safety_settings": [row, {**row, "method": "SEVERITY"}, row]})
    assert wish.safety == SafetyWish(exceptions={IMAGE_HATE: T.BLOCK_ONLY_HIGH}, methods={IMAGE_HATE: Method.SEVERITY})


def test_the_cache_s_words_are_litellm_s() -> None:
    cache = {"no-cache": "true", "no-store": True, "ttl": "60", "s-maxage": 30}
    assert parse({"cache": cache}).cache_control == CacheControl(
        no_cache=True, no_store=True, ttl_seconds=60.0, max_age_seconds=30.0
    )


def test_the_caller_is_not_a_parameter() -> None:
    assert parse({}, tenant="team").tenant == "team"
    assert refused({"tenant": "team"}).param == "tenant"


def test_user_wins_over_the_safety_identifier() -> None:
    assert parse({"user": "u", "safety_identifier": "s"}).user == "u"


# --- pictures in JSON ---

REMOTE = "https://host.example/a.png"


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("AAAA", ImageSource("image", base64="AAAA")),
        ("data:image/png;base64,AAAA", ImageSource("image", base64="AAAA")),
        ("DATA:image/png;charset=x;BASE64,AAAA", ImageSource("image", base64="AAAA")),
        (REMOTE, ImageSource("image", url=REMOTE)),
        ("HTTP://host.example/a.png", ImageSource("image", url="HTTP://host.example/a.png")),
        (b"raw", ImageSource("image", data=b"raw")),
        ({"image_url": "data:;base64,AAAA"}, ImageSource("image", base64="AAAA")),
        ({"image_url": {"url": REMOTE, "detail": "auto"}}, ImageSource("image", url=REMOTE)),
        ({"b64_json": "AAAA"}, ImageSource("image", base64="AAAA")),
        (["AAAA"], ImageSource("image", base64="AAAA")),
    ],
)
def test_a_picture_in_json(value: Any, source: ImageSource) -> None:
    assert parse({"image": value}, EDIT).images == (source,)
    mask = value[0] if isinstance(value, list) else value
    found = parse({"mask": mask}, EDIT).mask
    assert found == ImageSource("mask", data=source.data, base64=source.base64, url=source.url)


def test_several_pictures_in_json_keep_their_order_after_the_files() -> None:
    files = (ImageSource("image", data=b"f"),)
    wish = parse({"image": "AAAA", "images": [{"image_url": "data:image/png;base64,BBBB"}, "CCCC"]}, EDIT, files=files)
    assert [(source.param, source.base64) for source in wish.images] == [
        ("image", None),
        ("image", "AAAA"),
        ("images[0]", "BBBB"),
        ("images[1]", "CCCC"),
    ]
    assert parse({"images": []}, EDIT).images == ()


def test_a_mask_that_came_as_a_file_is_taken() -> None:
    mask = ImageSource("mask", data=b"m")
    assert parse({}, EDIT, mask=mask).mask is mask


def test_files_that_a_generation_cannot_use_are_refused() -> None:
    picture, mask = ImageSource("image", data=b"p"), ImageSource("mask", data=b"m")
    for sent in ({"files": (picture,)}, {"mask": mask}):
        with pytest.raises(InvalidParameterError) as caught:
            parse({}, GENERATION, **sent)
        assert caught.value.openai_code == "unknown_parameter"
    wish = parse({}, GENERATION, files=(picture,), mask=mask, drop_unknown=True)
    assert (wish.images, wish.mask) == ((), None)


@pytest.mark.parametrize(
    "value", ["", 5, True, {}, {"image_url": None}, {"file_id": "file-1"}, {"image_url": {"x": 1}}]
)
def test_a_picture_without_a_readable_form_is_refused(value: Any) -> None:
    for name in ("image", "mask"):
        error = refused({name: value}, EDIT)
        assert isinstance(error, InvalidImageError)
        assert error.param == name


@pytest.mark.parametrize("value", ["data:image/png;base64", "data:image/png,AAAA", "data:,", "data:;base32,AAAA"])
def test_a_data_uri_must_be_base64(value: str) -> None:
    error = refused({"images": ["AAAA", value]}, EDIT)
    assert (type(error), error.param) == (InvalidImageError, "images[1]")


names = st.sampled_from([row[0] for row in PARAMETERS] + ["image", "images", "mask", "other"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(["[]", "{}", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["category", "threshold", "imageSize", "ttl", "image_url", "url"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(st.dictionaries(names, json_values, max_size=5), st.sampled_from(Operation))
@settings(max_examples=300)
def test_any_parameters_are_a_wish_or_an_error_of_ours(fields: dict[str, Any], operation: Operation) -> None:
    try:
        wish = parse(fields, operation)
    except UserError:
        return
    # Never a silent OFF: what was said of safety is what is wished.
    if fields.get("safety_level") is not None:
        assert wish.safety.threshold is not None


# --- answers ---

CHUNKS = (b"/9j/", memoryview(b"4AAQ"))


def image(slot: int = 0, mime_type: str = "image/jpeg", size: tuple[int, int] = (1376, 768)) -> GeneratedImage:
    return GeneratedImage(
        slot=slot,
        picture=Picture(encoded=CHUNKS, mime_type=mime_type, width=size[0], height=size[1]),
        usage=Usage(
            input_tokens=14,
            input_text_tokens=10,
            input_image_tokens=4,
            output_tokens=1457,
            output_image_tokens=1120,
            output_text_tokens=337,
            total_tokens=1471,
        ),
        price_usd=0.1,
        created=0.0,
    )


def result(
    images: tuple[GeneratedImage, ...] = (),
    failures: tuple[SlotFailure, ...] = (),
    *,
    response_format: ResponseFormat = "b64_json",
    tier: str | None = "2K",
    effective_prompt: str = "a cat",
) -> ImageResult:
    request = ImageRequest(
        operation=GENERATION,
        variant=VARIANT,
        prompt="a cat",
        effective_prompt=effective_prompt,
        safety=Safety(),
        n=3,
        tier=tier,
        response_format=response_format,
    )
    return ImageResult(request=request, images=images or (image(),), failures=failures, created=1_763_750_000)


def rendered(made: ImageResult) -> Any:
    return json.loads(join(render_response(made, [CHUNKS] * len(made.images))))


def test_an_answer_tells_the_truth_about_what_was_made() -> None:
    assert rendered(result()) == {
        "created": 1_763_750_000,
        "background": "opaque",
        "output_format": "jpeg",
        "size": "1376x768",
        "quality": "2K",
        "data": [{"b64_json": "/9j/4AAQ"}],
        "usage": {
            "input_tokens": 14,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 4},
            "output_tokens": 1457,
            "output_tokens_details": {"image_tokens": 1120, "text_tokens": 337},
            "total_tokens": 1471,
        },
    }
    assert "quality" not in rendered(result(tier=None))


def test_pictures_are_spliced_in_uncopied() -> None:
    pieces = render_response(result((image(0), image(1))), [CHUNKS, CHUNKS])
    assert [piece for piece in pieces if piece is CHUNKS[1]] == [CHUNKS[1]] * 2


def test_url_is_a_data_uri_of_the_real_type() -> None:
    document = rendered(result((image(0), image(1, "image/png")), response_format="url"))
    assert document["data"] == [
        {"url": "data:image/jpeg;base64,/9j/4AAQ"},
        {"url": "data:image/png;base64,/9j/4AAQ"},
    ]


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_a_prompt_that_was_added_to_is_shown(response_format: ResponseFormat) -> None:
    prompt = 'a cat\n\nStyle: "Å"'
    document = rendered(result((image(0), image(1)), effective_prompt=prompt, response_format=response_format))
    assert [row["revised_prompt"] for row in document["data"]] == [prompt, prompt]
    assert "revised_prompt" not in rendered(result())["data"][0]


def test_failures_stand_beside_what_came() -> None:
    failures = (SlotFailure(0, NoImageError("none")), SlotFailure(2, SafetyBlockedError("blocked")))
    document = rendered(result((image(1),), failures))
    assert document["errors"] == [
        {"index": 0, "code": "IMG_NO_IMAGE", "message": "none"},
        {"index": 2, "code": "IMG_SAFETY_BLOCKED", "message": "blocked"},
    ]
    assert len(document["data"]) == 1
    assert document["usage"]["total_tokens"] == 1471
    assert "errors" not in rendered(result())


def test_every_picture_must_have_come_encoded() -> None:
    with pytest.raises(ValueError, match="zip"):
        render_response(result((image(0), image(1))), [CHUNKS])


def call_openai(status: int, content: bytes, headers: dict[str, str] | None = None) -> ImagesResponse:
    """Have the real client read an answer."""
    transport = httpx.MockTransport(
        lambda _: httpx.Response(
            status, content=content, headers={"content-type": "application/json", **(headers or {})}
        )
    )
    with (
        httpx.Client(transport=transport) as http,
        openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=http, max_retries=0) as client,
    ):
        return client.images.generate(prompt="a cat", model="gemini-3-pro-image")


def test_the_real_client_reads_the_answer() -> None:
    made = result((image(0), image(2)), (SlotFailure(1, NoImageError("none")),), effective_prompt="more")
    answer = call_openai(200, join(render_response(made, [CHUNKS, CHUNKS])))
    assert [row.b64_json for row in answer.data or ()] == ["/9j/4AAQ", "/9j/4AAQ"]
    assert (answer.data or [])[0].revised_prompt == "more"
    assert (answer.size, answer.output_format, answer.background, answer.created) == (
        "1376x768",
        "jpeg",
        "opaque",
        1_763_750_000,
    )
    assert answer.usage is not None
    assert (answer.usage.total_tokens, answer.usage.input_tokens_details.image_tokens) == (2942, 8)


# --- errors ---


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.code)
def test_every_error_has_openai_s_shape_with_ours_beside_it(leaf: type[ImageError]) -> None:
    error = leaf("What to do.", param="size")
    document = render_error(error, request_id="req_1")
    assert document == {
        "error": {
            "message": "What to do.",
            "type": leaf.openai_type,
            "param": "size",
            "code": leaf.default_openai_code,
            "image_error": {
                "code": leaf.code,
                "error_type": leaf.error_type,
                "category": leaf.category,
                "retryable": leaf.default_retryable,
                "retry_after": leaf.default_retry_after,
                "resolution": leaf.resolution,
                "request_id": "req_1",
            },
        }
    }
    with pytest.raises(openai.APIStatusError) as caught:
        call_openai(leaf.status, json.dumps(document).encode())
    assert caught.value.status_code == leaf.status
    assert (caught.value.code, caught.value.type, caught.value.param) == (
        leaf.default_openai_code,
        leaf.openai_type,
        "size",
    )
    assert "What to do." in caught.value.message


def test_reason_and_ratings_are_told_where_there_are_any() -> None:
    ratings = ({"category": HARASSMENT, "probability": "HIGH"},)
    detail = render_error(SafetyBlockedError("m", reason="SAFETY", ratings=ratings), request_id="r")["error"][
        "image_error"
    ]
    assert (detail["reason"], detail["safety_ratings"]) == ("SAFETY", list(ratings))
    limited = render_error(RateLimitedError("m", retry_after=1.5), request_id="r")["error"]["image_error"]
    assert limited["retry_after"] == 1.5
    assert "reason" not in limited
