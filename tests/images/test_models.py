from __future__ import annotations

import pytest

from sfumato.images.models import FAMILIES, ModelFamily

PRO, FLASH, LITE, FLASH_2_5 = FAMILIES

# Reference gemini-api.md, section 1.5: ratio, then 1K, 2K and 4K.
PRO_PIXELS = """
1:1  1024x1024 2048x2048 4096x4096
2:3  848x1264  1696x2528 3392x5056
3:2  1264x848  2528x1696 5056x3392
3:4  896x1200  1792x2400 3584x4800
4:3  1200x896  2400x1792 4800x3584
4:5  928x1152  1856x2304 3712x4608
5:4  1152x928  2304x1856 4608x3712
9:16 768x1376  1536x2752 3072x5504
16:9 1376x768  2752x1536 5504x3072
21:9 1584x672  3168x1344 6336x2688
"""
# The ratios that only the flash rows have: 512, 1K, 2K, 4K.
FLASH_PIXELS = """
1:1  512x512  1024x1024 2048x2048  4096x4096
2:3  424x632  848x1264  1696x2528  3392x5056
3:4  448x600  896x1200  1792x2400  3584x4800
4:5  464x576  928x1152  1856x2304  3712x4608
9:16 384x688  768x1376  1536x2752  3072x5504
1:4  256x1024 512x2048  1024x4096  2048x8192
4:1  1024x256 2048x512  4096x1024  8192x2048
1:8  192x1536 384x3072  768x6144   1536x12288
8:1  1536x192 3072x384  6144x768   12288x1536
"""
FLASH_2_5_PIXELS = """
1:1  1024x1024
2:3  832x1248
3:2  1248x832
3:4  864x1184
4:3  1184x864
4:5  896x1152
5:4  1152x896
9:16 768x1344
16:9 1344x768
21:9 1536x672
"""


def rows(table: str) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in (line.split() for line in table.strip().splitlines())}


@pytest.mark.parametrize(
    ("family", "tiers", "table"),
    [
        (PRO, ("1K", "2K", "4K"), PRO_PIXELS),
        (FLASH, ("512", "1K", "2K", "4K"), FLASH_PIXELS),
        (FLASH_2_5, (None,), FLASH_2_5_PIXELS),
    ],
    ids=["pro", "flash", "2.5"],
)
def test_pixels_are_those_of_the_reference(family: ModelFamily, tiers: tuple[str | None, ...], table: str) -> None:
    for ratio, sizes in rows(table).items():
        for tier, size in zip(tiers, sizes, strict=True):
            assert "x".join(map(str, family.pixel_size(tier, ratio))) == size, (ratio, tier)


def test_ratios_are_those_of_the_reference() -> None:
    ten = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
    assert PRO.aspect_ratios == tuple(rows(PRO_PIXELS)) == ten
    assert FLASH.aspect_ratios == LITE.aspect_ratios == (*ten, "1:4", "4:1", "1:8", "8:1")
    assert FLASH_2_5.aspect_ratios == tuple(rows(FLASH_2_5_PIXELS)) == ten


def test_tiers_are_those_of_the_reference() -> None:
    assert PRO.tier_names == ("1K", "2K", "4K")
    assert FLASH.tier_names == ("512", "1K", "2K", "4K")
    assert LITE.tier_names == ("1K",)
    assert FLASH_2_5.tier_names == ()
    assert [family.default_tier for family in FAMILIES] == ["1K", "1K", "1K", None]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_is_not_named_is_gemini_s_default(family: ModelFamily) -> None:
    assert family.pixel_size(None, None) == (1024, 1024)
    assert family.pixel_size(family.default_tier, "1:1") == (1024, 1024)
    assert family.tier(None) == family.tier(family.default_tier)
    assert family.tier("8K") is None


def test_output_tokens_are_those_of_the_reference() -> None:
    assert [PRO.output_tokens(tier) for tier in ("1K", "2K", "4K", None)] == [1120, 1120, 2000, 1120]
    assert FLASH.output_tokens("512") == 747
    assert FLASH_2_5.output_tokens(None) == 1290


def test_prices_per_picture_are_those_of_the_reference() -> None:
    def per_picture(family: ModelFamily, tier: str | None) -> float:
        return round(family.output_tokens(tier) * family.prices.image_output_per_million / 1e6, 4)

    assert [per_picture(PRO, tier) for tier in ("1K", "2K", "4K")] == [0.1344, 0.1344, 0.24]
    assert [round(per_picture(FLASH, tier), 3) for tier in FLASH.tier_names] == [0.045, 0.067, 0.101, 0.151]
    assert per_picture(LITE, "1K") == 0.0336
    assert round(per_picture(FLASH_2_5, None), 3) == 0.039
    assert (PRO.prices.input_per_million, PRO.prices.text_output_per_million) == (2.0, 12.0)


def test_the_pro_model_takes_fourteen_pictures() -> None:
    assert PRO.max_input_images == 14


def test_no_name_means_two_models() -> None:
    names = [name for family in FAMILIES for name in (family.name, *family.aliases)]
    assert len(set(names)) == len(names)
    assert PRO.aliases == ("gemini-3-pro-image-preview",)
