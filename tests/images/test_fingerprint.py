from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.images.fingerprint import fingerprint, prompt_digest
from sfumato.images.request import CacheControl, ImageRequest, ImageSource, InputImage, Operation
from sfumato.images.resolution import ImageWish, InputImages, RequestPolicy, SafetyWish, resolve
from sfumato.images.safety import CLASSIC_CATEGORIES, IMAGE_CATEGORIES, Method, Threshold
from sfumato.images.variants import parse_variant

QUIET = RequestPolicy(phrases=False)
VERTEX = RequestPolicy(backend="vertex")


def picture(text: str, *, mime_type: str = "image/png", size: tuple[int, int] = (64, 64)) -> InputImage:
    data = text.encode()
    return InputImage(data, mime_type, *size, has_alpha=True, digest=hashlib.sha256(data).hexdigest())


def asked(
    model: str = "gemini-3-pro-image",
    prompt: str = "a cat",
    policy: RequestPolicy | None = None,
    inputs: InputImages | None = None,
    **wish: Any,
) -> ImageRequest:
    variant = parse_variant(model)
    assert variant is not None
    operation = Operation.EDIT if inputs else Operation.GENERATION
    mask = ImageSource("mask") if inputs and inputs.mask else None
    return resolve(
        ImageWish(operation=operation, variant=variant, prompt=prompt, mask=mask, **wish),
        policy or RequestPolicy(),
        inputs,
    )


def test_the_key_has_the_form_of_the_requirements() -> None:
    request = asked("gemini-3-pro-image-4k-16x9", quality="hd", style="vivid")
    form = r"img:gemini-3-pro-image-4k-16x9:hd:vivid:[0-9a-f]{64}:0"
    assert re.fullmatch(form, fingerprint(request))
    assert re.fullmatch(r"img:gemini-3-pro-image:-:-:[0-9a-f]{64}:3", fingerprint(asked(), slot=3))
    assert ":-:custom:" in fingerprint(asked(style="in oil"))
    assert ":-:natural:" in fingerprint(asked(style="natural"))
    assert ":-:-:" in fingerprint(asked(quality="hd", style="vivid", policy=QUIET))


EQUAL: dict[str, list[ImageRequest]] = {
    "variant, size with quality, and Gemini's own words": [
        asked("gemini-3-pro-image-4k-16x9"),
        asked("gemini-3-pro-image-preview-16:9-HD"),
        asked(aspect_ratio="16:9", image_size="4K"),
        asked(aspect_ratio="16x9", image_size="4k"),
        asked(size="3840x2160"),
        asked(size="16:9", quality="high"),
        asked("gemini-3-pro-image-4k-16x9", size="1024x1024", quality="low"),
    ],
    "the default tier and none": [
        asked(),
        asked("gemini-3-pro-image-1k"),
        asked(quality="low"),
        asked(image_size="1K"),
        asked(size="auto", quality="auto"),
    ],
    "words for 4K when phrases are off": [
        asked(quality=quality, policy=QUIET) for quality in ("hd", "4k", "high", "xhigh", "max")
    ],
    "safety as level, as name, category by category, and by the floor": [
        asked(safety=SafetyWish(threshold=Threshold.BLOCK_LOW_AND_ABOVE)),
        asked(safety=SafetyWish(exceptions=dict.fromkeys(CLASSIC_CATEGORIES, Threshold.BLOCK_LOW_AND_ABOVE))),
        asked(policy=RequestPolicy(safety_threshold=Threshold.BLOCK_LOW_AND_ABOVE)),
        asked(policy=RequestPolicy().with_floor(Threshold.BLOCK_LOW_AND_ABOVE)),
    ],
    "a style that the client wrote into the prompt": [
        asked(style=" in oil "),
        asked(prompt="a cat\n\nStyle: in oil"),
    ],
    "the case of a style": [asked(style="VIVID"), asked(style="vivid")],
    "compression without effect": [asked(output_format="png"), asked(output_format="png", output_compression=100)],
    "what Vertex AI and the Gemini API do alike": [
        asked(),
        asked(policy=VERTEX),
        asked(policy=RequestPolicy(backend="mixed")),
        asked(policy=VERTEX, safety=SafetyWish(methods={CLASSIC_CATEGORIES[0]: Method.PROBABILITY})),
    ],
    "who asks, and how the answer is sent": [
        asked(),
        asked(response_format="url"),
        asked(user="u", tenant="t"),
        asked(n=4),
        asked(cache_control=CacheControl(no_store=True)),
    ],
}


@pytest.mark.parametrize("requests", EQUAL.values(), ids=EQUAL)
def test_equal_requests_spelled_differently_share_a_key(requests: list[ImageRequest]) -> None:
    assert len({fingerprint(request) for request in requests}) == 1


def test_anything_that_shapes_the_picture_parts_the_keys() -> None:
    one, two = picture("one"), picture("two")
    requests = [
        asked(),
        asked(prompt="a cat "),
        asked("gemini-3.1-flash-image"),
        asked("gemini-2.5-flash-image"),
        asked(quality="standard"),
        asked(quality="high"),
        asked(quality="hd"),
        asked(aspect_ratio="1:1"),
        asked(aspect_ratio="16:9"),
        asked(style="vivid"),
        asked(style="natural"),
        asked(style="vivid."),
        asked(seed=0),
        asked(seed=1),
        asked(safety=SafetyWish(moderation_low=True)),
        asked(safety=SafetyWish(threshold=Threshold.BLOCK_ONLY_HIGH)),
        asked(safety=SafetyWish(exceptions={CLASSIC_CATEGORIES[0]: Threshold.BLOCK_ONLY_HIGH})),
        asked(safety=SafetyWish(exceptions={CLASSIC_CATEGORIES[1]: Threshold.BLOCK_ONLY_HIGH})),
        asked(person_generation="ALLOW_ALL", policy=VERTEX),
        asked(person_generation="ALLOW_NONE", policy=VERTEX),
        asked(prominent_people="BLOCK_PROMINENT_PEOPLE", policy=VERTEX),
        # A filter on pictures that the Gemini API has not.
        asked(safety=SafetyWish(threshold=Threshold.BLOCK_ONLY_HIGH), policy=VERTEX),
        asked(safety=SafetyWish(exceptions={IMAGE_CATEGORIES[0]: Threshold.BLOCK_ONLY_HIGH}), policy=VERTEX),
        asked(safety=SafetyWish(exceptions={IMAGE_CATEGORIES[1]: Threshold.BLOCK_ONLY_HIGH}), policy=VERTEX),
        asked(safety=SafetyWish(exceptions={IMAGE_CATEGORIES[1]: Threshold.BLOCK_NONE}), policy=VERTEX),
        asked(safety=SafetyWish(methods={CLASSIC_CATEGORIES[0]: Method.SEVERITY}), policy=VERTEX),
        asked(safety=SafetyWish(methods={CLASSIC_CATEGORIES[1]: Method.SEVERITY}), policy=VERTEX),
        asked(output_format="png"),
        asked(output_format="jpeg"),
        asked(output_format="jpeg", output_compression=50),
        asked(output_format="jpeg", output_compression=51),
        asked(inputs=InputImages((one,))),
        asked(inputs=InputImages((two,))),
        asked(inputs=InputImages((one, two))),
        asked(inputs=InputImages((two, one))),
        asked(inputs=InputImages((one, one))),
        asked(inputs=InputImages((dataclasses.replace(one, mime_type="image/webp"),))),
        asked(inputs=InputImages((one,), two)),
        asked(inputs=InputImages((one,), one)),
        asked(inputs=InputImages((one,), two), output_format="webp"),
    ]
    keys = [fingerprint(request) for request in requests]
    assert len(set(keys)) == len(keys)
    digests = {key.split(":")[4] for key in keys}
    assert len(digests) == len(keys)


def test_a_plain_request_s_key_is_what_it_was() -> None:
    """Or every cache is lost with an update: keys as version 0.1.0 made them."""
    digest = "adf334945469bebe167a4b39bf7843c95a86c4f1862747111a26679e4fe61e7c"
    assert fingerprint(asked()) == f"img:gemini-3-pro-image:-:-:{digest}:0"


def test_each_slot_is_an_entry_of_its_own() -> None:
    request = asked(n=4)
    keys = [fingerprint(request, slot=slot) for slot in range(4)]
    assert len(set(keys)) == 4
    assert keys[:2] == [fingerprint(asked(n=2), slot=slot) for slot in range(2)]


@given(st.integers(0, 2**31 - 11), st.integers(0, 9))
@settings(max_examples=50)
def test_a_seeded_slot_is_the_picture_of_that_seed(seed: int, slot: int) -> None:
    assert fingerprint(asked(seed=seed, n=10), slot=slot) == fingerprint(asked(seed=seed + slot), slot=0)


def test_tenants_are_apart_only_where_the_cache_says_so() -> None:
    request = asked(tenant="a")
    assert fingerprint(request) == fingerprint(asked(tenant="b"))
    keys = {fingerprint(request, tenant=tenant) for tenant in (None, "a", "b")}
    assert len(keys) == 3


wishes = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["a cat", "a dog", "a cat\n\nStyle: x"])},
    optional={
        "style": st.sampled_from(["vivid", "natural", "x"]),
        "quality": st.sampled_from(["hd", "4k", "low", "auto"]),
        "size": st.sampled_from(["auto", "1024x1024", "16:9", "1792x1024"]),
        "seed": st.sampled_from([0, 1]),
        "output_format": st.sampled_from(["png", "jpeg"]),
    },
)


def effect(request: ImageRequest) -> tuple[object, ...]:
    """Everything that shapes the picture, written apart from the code under test."""
    return (
        request.effective_prompt,
        request.aspect_ratio,
        request.tier or "1K",
        request.seed,
        request.output_format,
        request.safety.settings(),
    )


@given(wishes, wishes)
@settings(max_examples=300)
def test_keys_are_equal_exactly_when_the_effect_is(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, two = asked(**first), asked(**second)
    assert (fingerprint(one) == fingerprint(two)) is (effect(one) == effect(two))


def test_prompts_are_found_by_their_digest() -> None:
    assert prompt_digest("a cat") == hashlib.sha256(b"a cat").hexdigest()
