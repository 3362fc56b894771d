from __future__ import annotations

from typing import Any

import pytest

from sfumato.errors import ImageError, InvalidImageError, InvalidParameterError, MissingPromptError
from sfumato.images.people import PEOPLE
from sfumato.images.prompts import HD_PHRASE, STYLE_PHRASES
from sfumato.images.request import CacheControl, ImageRequest, ImageSource, InputImage, Operation
from sfumato.images.resolution import (
    MAX_SEED,
    ImageWish,
    InputImages,
    RequestPolicy,
    SafetyWish,
    resolve,
    with_defaults,
)
from sfumato.images.safety import CLASSIC_CATEGORIES, IMAGE_CATEGORIES, Backend, Method, Threshold
from sfumato.images.variants import parse_variant

T = Threshold
HARASSMENT, HATE = CLASSIC_CATEGORIES[:2]


def picture(
    mime_type: str = "image/png", size: tuple[int, int] = (1600, 900), *, has_alpha: bool = False
) -> InputImage:
    return InputImage(b"x", mime_type, *size, has_alpha=has_alpha, digest="00")


def masked(mask: InputImage | None = None, first: InputImage | None = None) -> InputImages:
    return InputImages((first or picture(),), mask or picture(has_alpha=True))


def ask(
    model: str = "gemini-3-pro-image",
    *,
    policy: RequestPolicy | None = None,
    inputs: InputImages | None = None,
    prompt: str | None = "a cat",
    operation: Operation | None = None,
    **wish: Any,
) -> ImageRequest:
    variant = parse_variant(model)
    assert variant is not None
    operation = operation or (Operation.EDIT if inputs else Operation.GENERATION)
    mask = ImageSource("mask", data=b"x") if inputs and inputs.mask else None
    made = ImageWish(operation=operation, variant=variant, prompt=prompt, mask=mask, **wish)
    return resolve(made, policy or RequestPolicy(), inputs)


def refused(kind: type[ImageError], **wish: Any) -> ImageError:
    with pytest.raises(kind) as caught:
        ask(**wish)
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize("prompt", [None, "", " ", "\n\t\u3000"])
def test_a_blank_prompt_is_missing(prompt: str | None) -> None:
    assert refused(MissingPromptError, prompt=prompt).param == "prompt"


def test_the_prompt_s_length_is_counted_in_characters() -> None:
    assert ask(prompt="ü" * 32_000).prompt == "ü" * 32_000
    error = refused(InvalidParameterError, prompt="a" * 32_001)
    assert "32,001" in error.message
    assert error.param == "prompt"


@pytest.mark.parametrize("n", [0, -1, 11])
def test_n_is_one_to_ten(n: int) -> None:
    assert refused(InvalidParameterError, n=n).param == "n"
    assert [ask(n=allowed).n for allowed in (1, 10)] == [1, 10]


@pytest.mark.parametrize(("seed", "n"), [(-1, 1), (MAX_SEED + 1, 1), (MAX_SEED, 2), (MAX_SEED - 8, 10)])
def test_every_slot_s_seed_must_fit(seed: int, n: int) -> None:
    assert refused(InvalidParameterError, seed=seed, n=n).param == "seed"
    assert ask(seed=MAX_SEED - 9, n=10).seed == MAX_SEED - 9
    assert ask(seed=0).seed == 0


VERTEX = RequestPolicy(backend="vertex")


@pytest.mark.parametrize(("param", "words"), PEOPLE.items())
def test_words_on_people_are_for_vertex(param: str, words: tuple[str, ...]) -> None:
    for word in words:
        said: dict[str, Any] = {param: f" {word.lower()}"}
        assert getattr(ask(policy=VERTEX, **said), param) == word
        elsewhere: tuple[Backend, ...] = ("gemini", "mixed")
        for backend in elsewhere:
            error = refused(InvalidParameterError, policy=RequestPolicy(backend=backend), **{param: word})
            assert error.param == param
            assert "Vertex AI" in error.message
    error = refused(InvalidParameterError, policy=VERTEX, **{param: "SOME"})
    assert error.param == param
    assert words[0] in error.message


@pytest.mark.parametrize("backend", ["gemini", "mixed"])
@pytest.mark.parametrize(
    ("wish", "what"),
    [
        (SafetyWish(exceptions={IMAGE_CATEGORIES[0]: T.BLOCK_ONLY_HIGH}), IMAGE_CATEGORIES[0]),
        (SafetyWish(methods={HARASSMENT: Method.SEVERITY}), "a method"),
    ],
)
def test_what_vertex_alone_knows_of_safety_is_refused_elsewhere(backend: Backend, wish: SafetyWish, what: str) -> None:
    error = refused(InvalidParameterError, policy=RequestPolicy(backend=backend), safety=wish)
    assert error.param == "safety_settings"
    assert what in error.message
    safety = ask(policy=VERTEX, safety=wish).safety
    assert (dict(safety.exceptions), dict(safety.methods)) == (wish.exceptions, wish.methods)


def test_the_operator_s_categories_for_pictures_hold_where_a_request_may_reach_vertex() -> None:
    backends: tuple[Backend, ...] = ("gemini", "mixed", "vertex")
    single = {IMAGE_CATEGORIES[0]: T.BLOCK_ONLY_HIGH}
    found = [ask(policy=RequestPolicy(backend=b, safety_exceptions=single)).safety.exceptions for b in backends]
    assert found == [(), tuple(single.items()), tuple(single.items())]


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"output_compression": -1, "output_format": "jpeg"}, "output_compression"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_compression": 50, "output_format": "png"}, "output_compression"),
        ({"output_format": "jpeg", "inputs": masked()}, "output_format"),
        ({"output_format": "webp", "output_compression": 80, "inputs": masked()}, "output_compression"),
    ],
)
def test_output_options_must_fit_together(wish: dict[str, Any], param: str) -> None:
    assert refused(InvalidParameterError, **wish).param == param


def test_output_options_without_effect_are_forgotten() -> None:
    assert ask(output_compression=100).output_compression is None
    assert ask(output_compression=100, output_format="png").output_compression is None
    assert ask(output_compression=80, output_format="webp").output_compression == 80
    assert ask(output_format="webp", output_compression=100, inputs=masked()).output_compression is None


def test_with_a_mask_the_answer_is_lossless() -> None:
    assert ask(inputs=masked()).output_format == "png"
    assert ask(inputs=masked(), output_format="webp").output_format == "webp"
    assert ask(inputs=InputImages((picture(),))).output_format is None


def test_an_edit_needs_a_picture() -> None:
    error = refused(InvalidImageError, operation=Operation.EDIT)
    assert (error.param, error.openai_code) == ("image", "missing_required_parameter")
    refused(InvalidImageError, operation=Operation.GENERATION, inputs=InputImages((), picture(has_alpha=True)))


def test_the_number_of_pictures_is_bounded_and_a_mask_counts() -> None:
    fourteen = (picture(),) * 14
    assert len(ask(inputs=InputImages(fourteen)).images) == 14
    assert "at most 14." in refused(InvalidParameterError, inputs=InputImages((*fourteen, picture()))).message
    mask = picture(has_alpha=True)
    assert len(ask(inputs=InputImages(fourteen[1:], mask)).images) == 13
    assert "at most 13 beside a mask" in refused(InvalidParameterError, inputs=InputImages(fourteen, mask)).message


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (masked(picture("image/webp", has_alpha=True)), "PNG with an alpha channel"),
        (masked(picture(has_alpha=False)), "PNG with an alpha channel"),
        (masked(picture(size=(900, 1600), has_alpha=True)), "900x1600 pixels and the first image is 1600x900"),
        (masked(first=picture("image/heic")), "PNG, JPEG or WebP"),
        (masked(first=picture("image/heif")), "PNG, JPEG or WebP"),
    ],
)
def test_a_mask_must_fit_the_first_picture(inputs: InputImages, text: str) -> None:
    error = refused(InvalidImageError, inputs=inputs)
    assert text in error.message
    assert error.param == "mask"


@pytest.mark.parametrize("mime_type", ["image/png", "image/jpeg", "image/webp"])
def test_a_mask_goes_with_these(mime_type: str) -> None:
    assert ask(inputs=masked(first=picture(mime_type))).mask is not None


def test_with_a_mask_the_first_picture_decides_ratio_and_tier() -> None:
    request = ask(inputs=masked(), size="1024x1024", policy=RequestPolicy(default_tier="4K"))
    assert (request.aspect_ratio, request.tier) == ("16:9", "2K")
    assert ask(inputs=masked(), image_size="4K").tier == "4K"
    assert ask(inputs=masked(), quality="low").tier == "1K"
    assert ask("gemini-3-pro-image-4k-16x9", inputs=masked(), aspect_ratio="16:9").tier == "4K"


@pytest.mark.parametrize(
    ("wish", "param"),
    [({"aspect_ratio": "1:1"}, "aspect_ratio"), ({"model": "gemini-3-pro-image-1x1"}, "model")],
)
def test_with_a_mask_another_ratio_is_refused(wish: dict[str, str], param: str) -> None:
    error = refused(InvalidParameterError, inputs=masked(), **wish)
    assert error.param == param
    assert "16:9" in error.message


def test_without_a_mask_an_edit_keeps_gemini_s_own_choice_of_ratio() -> None:
    request = ask(inputs=InputImages((picture(),)))
    assert (request.aspect_ratio, request.tier) == (None, None)


def test_everything_is_judged_by_the_precedence_of_sizes() -> None:
    request = ask("gemini-3-pro-image-2k", size="1792x1024", quality="low")
    assert (request.aspect_ratio, request.tier) == ("16:9", "2K")
    assert ask(policy=RequestPolicy(default_tier="2K")).tier == "2K"
    assert refused(InvalidParameterError, quality="ultra").param == "quality"
    # Unknown words are refused also where another word decides.
    assert refused(InvalidParameterError, model="gemini-3-pro-image-4k", quality="ultra").param == "quality"
    assert refused(InvalidParameterError, aspect_ratio="1:1", size="big").param == "size"


def test_empty_texts_of_a_form_count_as_absent() -> None:
    request = ask(size="", quality="", style="  ", aspect_ratio="", image_size="")
    assert (request.aspect_ratio, request.tier, request.quality, request.style) == (None, None, None, None)


def test_the_effective_prompt_holds_what_was_asked_for() -> None:
    request = ask(quality=" HD ", style=" Vivid ")
    assert request.effective_prompt == f"a cat\n\n{HD_PHRASE}\n\n{STYLE_PHRASES['vivid']}"
    assert (request.prompt, request.quality, request.style) == ("a cat", "hd", "vivid")
    own = ask(style=" In Oil ", policy=RequestPolicy(phrases=False))
    assert (own.style, own.effective_prompt) == ("In Oil", "a cat\n\nStyle: In Oil")
    assert ask("gemini-3-pro-image-hd").effective_prompt == "a cat"


def level_of(wish: SafetyWish, policy: RequestPolicy | None = None) -> dict[str, Threshold]:
    return dict(ask(safety=wish, policy=policy).safety.settings())


def test_safety_precedence() -> None:
    operator = RequestPolicy(safety_threshold=T.BLOCK_MEDIUM_AND_ABOVE, safety_exceptions={HATE: T.BLOCK_LOW_AND_ABOVE})
    default = dict.fromkeys(CLASSIC_CATEGORIES, T.BLOCK_MEDIUM_AND_ABOVE)
    assert level_of(SafetyWish()) == dict.fromkeys(CLASSIC_CATEGORIES, T.OFF)
    assert level_of(SafetyWish(), operator) == {**default, HATE: T.BLOCK_LOW_AND_ABOVE}
    # A level of the request replaces the operator's defaults; a category of its own beats its level.
    assert level_of(SafetyWish(threshold=T.OFF), operator) == dict.fromkeys(CLASSIC_CATEGORIES, T.OFF)
    wish = SafetyWish(threshold=T.OFF, exceptions={HARASSMENT: T.BLOCK_ONLY_HIGH})
    assert level_of(wish, operator) == {**dict.fromkeys(CLASSIC_CATEGORIES, T.OFF), HARASSMENT: T.BLOCK_ONLY_HIGH}
    assert level_of(SafetyWish(exceptions={HATE: T.OFF}), operator) == {**default, HATE: T.OFF}


def test_moderation_is_weaker_than_a_level() -> None:
    low = SafetyWish(moderation_low=True)
    assert level_of(low) == dict.fromkeys(CLASSIC_CATEGORIES, T.BLOCK_NONE)
    both = SafetyWish(threshold=T.BLOCK_ONLY_HIGH, moderation_low=True)
    assert level_of(both) == dict.fromkeys(CLASSIC_CATEGORIES, T.BLOCK_ONLY_HIGH)


def test_every_floor_holds_for_every_category() -> None:
    policy = RequestPolicy(safety_floors=(T.BLOCK_ONLY_HIGH,)).with_floor(T.BLOCK_MEDIUM_AND_ABOVE)
    assert policy.with_floor(None) is policy
    wish = SafetyWish(threshold=T.OFF, exceptions={HATE: T.BLOCK_NONE, HARASSMENT: T.BLOCK_LOW_AND_ABOVE})
    raised = {**dict.fromkeys(CLASSIC_CATEGORIES, T.BLOCK_MEDIUM_AND_ABOVE), HARASSMENT: T.BLOCK_LOW_AND_ABOVE}
    assert level_of(wish, policy) == raised


def test_the_rest_is_carried_over() -> None:
    control = CacheControl(no_cache=True)
    request = ask(n=2, user="u", tenant="t", response_format="url", cache_control=control, seed=5)
    assert (request.n, request.user, request.tenant, request.response_format) == (2, "u", "t", "url")
    assert (request.cache_control, request.seed, request.operation) == (control, 5, Operation.GENERATION)


def wished(model: str = "gemini-3-pro-image", **fields: Any) -> ImageWish:
    variant = parse_variant(model)
    assert variant is not None
    return ImageWish(operation=Operation.GENERATION, variant=variant, prompt="a cat", **fields)


def completed(base: ImageWish, model: str = "gemini-3-pro-image", **fields: Any) -> ImageWish:
    return with_defaults(wished(model, **fields), base, sent=set(fields))


def test_defaults_stand_under_what_was_asked() -> None:
    default: dict[str, Any] = {"n": 2, "size": "2048x2048", "style": "vivid", "seed": 4, "response_format": "url"}
    default |= {
        "user": "op",
        "person_generation": "ALLOW_ALL",
        "prominent_people": "a",
        "cache_control": CacheControl(no_store=True),
    }
    said: dict[str, Any] = {"n": 1, "size": "1024x1024", "style": "natural", "seed": 0, "response_format": "b64_json"}
    said |= {"user": "me", "person_generation": "ALLOW_ADULT", "prominent_people": "b", "cache_control": CacheControl()}

    assert completed(wished(**default)) == wished(**default)
    assert completed(wished(**default), **said) == wished(**said)


@pytest.mark.parametrize(
    ("model", "fields", "left"),
    [
        ("gemini-3-pro-image-4k-16x9", {}, (None, None, None)),
        ("gemini-3-pro-image-4k", {}, ("1:1", None, None)),
        ("gemini-3-pro-image-16x9", {}, (None, "2K", "low")),
        ("gemini-3-pro-image", {"size": "1024x1024"}, (None, None, None)),
        ("gemini-3-pro-image", {"size": " Auto "}, ("1:1", "2K", "low")),
        ("gemini-3-pro-image", {"aspect_ratio": "4:3"}, ("4:3", "2K", "low")),
        ("gemini-3-pro-image", {"image_size": "4K"}, ("1:1", "4K", None)),
        ("gemini-3-pro-image", {"quality": "high"}, ("1:1", None, "high")),
    ],
)
def test_a_default_shape_steps_back(model: str, fields: dict[str, Any], left: tuple[str | None, ...]) -> None:
    found = completed(wished(aspect_ratio="1:1", image_size="2K", quality="low"), model, **fields)
    assert (found.aspect_ratio, found.image_size, found.quality) == left


def test_a_default_format_steps_back_from_a_mask_and_takes_its_compression_with_it() -> None:
    mask, jpeg = ImageSource("mask", data=b"x"), wished(output_format="jpeg", output_compression=50)
    for fields, left in (
        ({"mask": mask}, (None, None)),
        ({"mask": mask, "output_format": "webp"}, ("webp", None)),
        ({"mask": mask, "output_format": "jpeg"}, ("jpeg", None)),  # the client's own mistake, refused later
        ({}, ("jpeg", 50)),
        ({"output_format": "png"}, ("png", None)),
        ({"output_compression": 0}, ("jpeg", 0)),
    ):
        found = completed(jpeg, **fields)
        assert (found.output_format, found.output_compression) == left
    assert completed(wished(output_format="webp"), mask=mask).output_format == "webp"


def test_a_level_replaces_the_default_safety_and_a_category_only_its_own() -> None:
    base = wished(safety=SafetyWish(threshold=T.BLOCK_MEDIUM_AND_ABOVE, exceptions={HATE: T.OFF, HARASSMENT: T.OFF}))
    for level in (SafetyWish(threshold=T.BLOCK_LOW_AND_ABOVE), SafetyWish(moderation_low=True)):
        assert completed(base, safety=level).safety == level
    found = completed(base, safety=SafetyWish(exceptions={HARASSMENT: T.BLOCK_ONLY_HIGH})).safety
    assert found.threshold is T.BLOCK_MEDIUM_AND_ABOVE
    assert found.exceptions == {HATE: T.OFF, HARASSMENT: T.BLOCK_ONLY_HIGH}
