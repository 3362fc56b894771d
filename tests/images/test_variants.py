from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import ModelNotFoundError
from sfumato.images.models import FAMILIES, ModelFamily
from sfumato.images.variants import Variant, canonical_variants, list_variants, parse_variant, require_variant

PRO, FLASH, LITE, FLASH_2_5 = FAMILIES
BASE = "gemini-3-pro-image"
CANONICAL = [
    f"{BASE}{tier}{ratio}"
    for tier in ("", "-2k", "-4k")
    for ratio in ("", "-1x1", "-4x3", "-3x4", "-16x9", "-9x16", "-21x9")
]
RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
ALL = [
    f"{BASE}{tier}{ratio}"
    for tier in ("", "-2k", "-4k")
    for ratio in ("", *(f"-{ratio.replace(':', 'x')}" for ratio in RATIOS))
]
TIERS = {"1k": "1K", "2k": "2K", "4k": "4K", "hd": "4K"}

variants = st.sampled_from(FAMILIES).flatmap(
    lambda family: st.builds(
        Variant,
        st.just(family),
        st.sampled_from((None, *family.tier_names)),
        st.sampled_from((None, *family.aspect_ratios)),
    )
)


def test_the_canonical_names_are_the_epic_s() -> None:
    assert len(CANONICAL) == 21
    assert [variant.name for variant in canonical_variants()] == CANONICAL


def test_all_ratios_give_thirty_three_names() -> None:
    assert len(ALL) == 33
    assert [variant.name for variant in list_variants(PRO)] == ALL


@pytest.mark.parametrize("tier", [None, *TIERS])
@pytest.mark.parametrize("ratio", [None, *RATIOS])
def test_names_are_read_in_both_orders_and_every_spelling(tier: str | None, ratio: str | None) -> None:
    spellings = [ratio.replace(":", sign) for sign in "x-:"] if ratio else [None]
    for base, spelling in product((BASE, f"{BASE}-preview"), spellings):
        for order in ((base, tier, spelling), (base, spelling, tier)):
            name = "-".join(part for part in order if part)
            assert parse_variant(name) == Variant(PRO, TIERS[tier] if tier else None, ratio), name


@pytest.mark.parametrize("name", ALL)
def test_listed_names_stand_for_themselves(name: str) -> None:
    variant = parse_variant(name)
    assert variant is not None
    assert variant.name == name


@pytest.mark.parametrize("prefix", ["models/", "gemini/", "gemini-image/", "Models/", " "])
def test_prefixes_and_case_do_not_matter(prefix: str) -> None:
    assert parse_variant(f"{prefix}GEMINI-3-Pro-Image-4K-16X9 ") == Variant(PRO, "4K", "16:9")


def test_hd_is_the_tier_4k_and_leaves_no_other_trace() -> None:
    assert parse_variant(f"{BASE}-hd") == parse_variant(f"{BASE}-4k")


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("gemini-3.1-flash-image-512-1x8", Variant(FLASH, "512", "1:8")),
        ("gemini-3.1-flash-image-1-4-hd", Variant(FLASH, "4K", "1:4")),
        ("gemini-3.1-flash-lite-image-8x1", Variant(LITE, None, "8:1")),
        ("gemini-3.1-flash-lite-image-1k", Variant(LITE, "1K", None)),
        ("gemini-2.5-flash-image-21x9", Variant(FLASH_2_5, None, "21:9")),
    ],
)
def test_siblings_have_their_own_grammar(name: str, variant: Variant) -> None:
    assert parse_variant(name) == variant


@pytest.mark.parametrize(
    "name",
    [
        "",
        "dall-e-3",
        "gpt-image-1",
        "gemini-3-pro",
        "gemini-3-pro-images",
        "gemini-3-pro-image2",
        "my-gemini-3-pro-image",
        "openai/gemini-3-pro-image",
        "gemini-2.5-flash",
        "imagen-4",
    ],
)
def test_other_models_are_not_ours(name: str) -> None:
    assert parse_variant(name) is None


@pytest.mark.parametrize(
    "suffix",
    [
        "-8k",
        "-512",
        "-1x4",
        "-16x10",
        "-2k-4k",
        "-4k-hd",
        "-1x1-16x9",
        "-16-9-9-16",
        "-",
        "--4k",
        "-4k-",
        "_4k",
        "/4k",
        ":4k",
        "-4k 16x9",
        "-preview-preview",
        "-16\u0669",
        "-\uff11\uff16x9",
    ],
)
def test_an_unknown_suffix_names_the_closest_variants(suffix: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        parse_variant(BASE + suffix)
    assert caught.value.param == "model"
    closest = caught.value.message.split("Closest: ")[1].rstrip(".").split(", ")
    assert len(closest) == 3
    assert set(closest) <= set(ALL)


def test_the_closest_variant_is_close() -> None:
    with pytest.raises(ModelNotFoundError, match=f"Closest: {BASE}-4k-16x9, "):
        parse_variant(f"{BASE}-4k-16x99")


@pytest.mark.parametrize(
    "name", ["gemini-2.5-flash-image-2k", "gemini-2.5-flash-image-hd", "gemini-3.1-flash-lite-image-hd"]
)
def test_a_tier_that_the_row_does_not_have_is_unknown(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        parse_variant(name)


def test_a_long_name_is_told_cut() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        parse_variant(f"{BASE}-{'x' * 100_000}")
    assert len(caught.value.message) < 600


@given(variants, st.booleans())
@settings(max_examples=200)
def test_parsing_undoes_formatting(variant: Variant, upper: bool) -> None:  # noqa: FBT001  # hypothesis passes it
    assert parse_variant(variant.name.upper() if upper else variant.name) == variant


@given(
    st.sampled_from([name for family in FAMILIES for name in (family.name, *family.aliases)]),
    st.text(alphabet=st.one_of(st.sampled_from("-x:k0123456789/ "), st.characters()), max_size=40),
)
@settings(max_examples=300)
def test_any_suffix_is_a_variant_another_model_or_not_found(base: str, suffix: str) -> None:
    try:
        variant = parse_variant(base + suffix)
    except ModelNotFoundError:
        return
    if variant is not None:
        assert parse_variant(variant.name) == variant


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_is_read_without_a_crash(text: str) -> None:
    assert parse_variant(text) is None


def test_the_default_tier_is_listed_by_the_plain_name_only() -> None:
    def names(family: ModelFamily) -> list[str]:
        return [variant.name for variant in list_variants(family, ("1:1",))]

    assert names(FLASH)[::2] == [FLASH.name, f"{FLASH.name}-512", f"{FLASH.name}-2k", f"{FLASH.name}-4k"]
    assert names(FLASH_2_5) == [FLASH_2_5.name, f"{FLASH_2_5.name}-1x1"]


@pytest.mark.parametrize(
    ("name", "told"),
    [("dall-e-3", "The model 'dall-e-3'"), ("x" * 300, f"The model '{'x' * 200}'"), (None, "This model")],
)
def test_a_model_of_no_family_is_told_those_that_are_served(name: str | None, told: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        require_variant(name)
    assert caught.value.message.startswith(f"{told} is not served here. Served: gemini-3-pro-image, ")
    assert caught.value.param == "model"


def test_a_required_variant_is_the_parsed_one() -> None:
    assert require_variant("gemini-3-pro-image-4k") == parse_variant("gemini-3-pro-image-4k")
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        require_variant("gemini-3-pro-image-9k")
