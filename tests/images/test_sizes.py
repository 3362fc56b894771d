from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidParameterError
from sfumato.images.models import FAMILIES, ModelFamily
from sfumato.images.sizes import (
    QUALITY_TIERS,
    Size,
    covering_tier,
    nearest_aspect_ratio,
    parse_aspect_ratio,
    parse_quality,
    parse_size,
    parse_tier,
    resolve_aspect_ratio,
    resolve_tier,
)
from sfumato.images.variants import Variant

PRO, FLASH, LITE, FLASH_2_5 = FAMILIES
families = st.sampled_from(FAMILIES)
sides = st.integers(min_value=1, max_value=99_999)


def tier(
    variant: Variant,
    *,
    image_size: str | None = None,
    quality: str | None = None,
    size: str = "auto",
    ratio: str | None = None,
    default: str | None = None,
) -> str | None:
    return resolve_tier(
        variant,
        image_size=image_size,
        quality=quality,
        size=parse_size(size, variant.family),
        aspect_ratio=ratio,
        default=default,
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("auto", Size()),
        (" AUTO ", Size()),
        ("1024x1024", Size(pixels=(1024, 1024))),
        ("1792X1024", Size(pixels=(1792, 1024))),
        ("16:9", Size(aspect_ratio="16:9")),
        ("09:016", Size(aspect_ratio="9:16")),
    ],
)
def test_size_is_auto_pixels_or_a_ratio(text: str, size: Size) -> None:
    assert parse_size(text, PRO) == size


@pytest.mark.parametrize(
    "text", ["", " ", "big", "0x100", "100x0", "1024", "1024x", "-1x5", "1e3x5", "100000x1", "7:5", "1:4", "1:", "a:b"]
)
def test_any_other_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        parse_size(text, PRO)
    assert caught.value.param == "size"


@pytest.mark.parametrize("text", ["16:9", "16x9", "16-9", "16X9", " 16:9 "])
def test_aspect_ratio_has_three_spellings(text: str) -> None:
    assert parse_aspect_ratio(text, PRO) == "16:9"


@pytest.mark.parametrize("text", ["16:10", "32:18", "1:4", "wide", "16/9", ""])
def test_a_ratio_outside_the_row_is_refused_with_the_row(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="gemini-3-pro-image takes 1:1, 2:3, ") as caught:
        parse_aspect_ratio(text, PRO)
    assert caught.value.param == "aspect_ratio"
    assert parse_aspect_ratio("1x4", FLASH) == "1:4"


@pytest.mark.parametrize(
    ("text", "family", "allowed"),
    [
        ("8K", PRO, "takes 1K, 2K, 4K"),
        ("512", PRO, "takes 1K, 2K, 4K"),
        ("2K", LITE, "takes 1K."),
        ("1K", FLASH_2_5, "takes no tier"),
        ("", PRO, "takes"),
    ],
)
def test_a_tier_outside_the_row_is_refused_with_the_row(text: str, family: ModelFamily, allowed: str) -> None:
    with pytest.raises(InvalidParameterError, match=allowed) as caught:
        parse_tier(text, family)
    assert caught.value.param == "image_size"
    assert parse_tier(" 2k", PRO) == "2K"


def test_quality_means_the_tiers_of_the_requirements() -> None:
    assert {
        wanted: [word for word, meant in QUALITY_TIERS.items() if meant == wanted]
        for wanted in ("4K", "2K", "1K", None)
    } == {
        "4K": ["hd", "high", "xhigh", "max", "4k"],
        "2K": ["standard", "medium", "2k"],
        "1K": ["low", "1k"],
        None: ["auto"],
    }
    assert parse_quality(" HD ") == "4K"
    with pytest.raises(InvalidParameterError, match="expected one of hd, high"):
        parse_quality("ultra")


@pytest.mark.parametrize(
    ("size", "ratio", "covering"),
    [
        ("3840x2160", "16:9", "4K"),
        ("1792x1024", "16:9", "2K"),
        ("1024x1792", "9:16", "2K"),
        ("1024x1024", "1:1", "1K"),
        ("256x256", "1:1", "1K"),
        ("512x512", "1:1", "1K"),
        ("1536x1024", "3:2", "2K"),
        ("1024x1536", "2:3", "2K"),
        ("2048x2048", "1:1", "2K"),
        ("5504x3072", "16:9", "4K"),
        ("9999x9999", "1:1", "4K"),
        ("2560x1080", "21:9", "2K"),
    ],
)
def test_pixels_mean_the_nearest_ratio_and_a_tier_that_covers_them(size: str, ratio: str, covering: str) -> None:
    parsed = parse_size(size, PRO)
    assert resolve_aspect_ratio(Variant(PRO), aspect_ratio=None, size=parsed) == ratio
    assert tier(Variant(PRO), size=size, ratio=ratio) == covering


def test_without_a_resolved_ratio_pixels_are_compared_at_their_nearest() -> None:
    assert tier(Variant(PRO), size="1792x1024") == "2K"


@given(families, sides, sides)
@settings(max_examples=300)
def test_the_nearest_ratio_has_the_least_distance_of_logarithms(family: ModelFamily, width: int, height: int) -> None:
    def distance(ratio: str) -> float:
        w, h = map(int, ratio.split(":"))
        return abs(math.log(w / h) - math.log(width / height))

    nearest = nearest_aspect_ratio(width, height, family)
    assert all(distance(nearest) <= distance(ratio) for ratio in family.aspect_ratios)


@given(families, sides, sides, st.data())
@settings(max_examples=300)
def test_the_covering_tier_is_the_smallest_that_is_enough(
    family: ModelFamily, width: int, height: int, data: st.DataObject
) -> None:
    ratio = data.draw(st.sampled_from(family.aspect_ratios))

    def enough(name: str) -> bool:
        w, h = family.pixel_size(name, ratio)
        return w * h >= 0.95 * width * height

    found = covering_tier(width, height, ratio, family)
    if found is None:
        assert family.tiers == ()
        return
    place = family.tier_names.index(found)
    assert not any(enough(name) for name in family.tier_names[:place])
    assert enough(found) or place == len(family.tiers) - 1


def test_ratio_precedence() -> None:
    plain, named, size = Variant(PRO), Variant(PRO, None, "4:3"), parse_size("1792x1024", PRO)
    assert resolve_aspect_ratio(plain, aspect_ratio=None, size=Size()) is None
    assert resolve_aspect_ratio(plain, aspect_ratio=None, size=size) == "16:9"
    assert resolve_aspect_ratio(plain, aspect_ratio=None, size=parse_size("9:16", PRO)) == "9:16"
    assert resolve_aspect_ratio(named, aspect_ratio=None, size=size) == "4:3"
    assert resolve_aspect_ratio(plain, aspect_ratio="1:1", size=size) == "1:1"
    assert resolve_aspect_ratio(named, aspect_ratio="4:3", size=size) == "4:3"


def test_tier_precedence() -> None:
    plain, named = Variant(PRO), Variant(PRO, "2K")
    assert tier(plain) is None
    assert tier(plain, default="2K") == "2K"
    assert tier(plain, default="2K", size="1024x1024") == "1K"
    assert tier(plain, default="4K", size="16:9", ratio="16:9") == "4K"
    assert tier(plain, default="2K", size="1024x1024", quality="hd") == "4K"
    assert tier(plain, default="2K", size="1024x1024", quality="auto") == "1K"
    assert tier(plain, default="2K", quality="auto") == "2K"
    assert tier(named, default="1K", size="3840x2160", quality="hd") == "2K"
    assert tier(plain, image_size="1K", default="4K", size="3840x2160", quality="hd") == "1K"
    assert tier(named, image_size="2K", quality="low") == "2K"


def test_contradicting_the_name_is_refused() -> None:
    variant = Variant(PRO, "2K", "4:3")
    with pytest.raises(InvalidParameterError, match="gemini-3-pro-image-2k-4x3") as caught:
        tier(variant, image_size="4K")
    assert caught.value.param == "image_size"
    with pytest.raises(InvalidParameterError, match="gemini-3-pro-image-2k-4x3") as caught:
        resolve_aspect_ratio(variant, aspect_ratio="1:1", size=Size())
    assert caught.value.param == "aspect_ratio"


@pytest.mark.parametrize(
    ("family", "wish", "given_tier"),
    [
        (FLASH_2_5, {"quality": "hd"}, None),
        (FLASH_2_5, {"size": "4096x4096", "default": "4K"}, None),
        (LITE, {"quality": "hd"}, "1K"),
        (LITE, {"size": "4096x4096"}, "1K"),
        (LITE, {"default": "4K"}, "1K"),
        (FLASH, {"size": "512x512"}, "512"),
        (FLASH, {"default": "512"}, "512"),
        # The operator's smallest is this model's smallest, never its most expensive.
        (PRO, {"default": "512"}, "1K"),
        (LITE, {"default": "512"}, "1K"),
    ],
)
def test_models_with_other_tiers_get_their_nearest(
    family: ModelFamily, wish: dict[str, str], given_tier: str | None
) -> None:
    assert tier(Variant(family), **wish) == given_tier
