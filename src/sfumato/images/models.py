"""The table of model families: one row per model, and the only place where a model's facts stand.

Pixels and tokens: Google's image generation guide and measured answers, seen 2026-11-21. Every tier is a
whole multiple (or half) of the 1K table, so a row stores the 1K pixels and a factor per tier.
Prices: Google's pricing page, standard tier, USD per million tokens; each row says when it was seen. An operator's own
go before them (`sfumato.images.prices`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of one model in USD per million tokens, where they stand, and when they were seen there."""

    input_per_million: float
    text_output_per_million: float
    image_output_per_million: float
    source: str = "https://ai.google.dev/gemini-api/docs/pricing"
    seen: str | None = "2026-11-21"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A resolution tier: Gemini's ``imageSize`` value, its scale of the 1K pixels, its output tokens per image."""

    name: str
    scale: float
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFamily:
    """One model and everything that is true of it.

    Attributes:
        name: The upstream model id and the base of its variant names.
        aliases: Other base names that mean the same model.
        pixels: 1K width and height by aspect ratio (``"16:9"``), in the order of listings.
        tiers: The values Gemini takes as ``imageSize``, smallest first; empty where the model has none.
        default_tier: What Gemini makes when ``imageSize`` is absent, None where the model has no tiers.
        untiered_output_tokens: Output tokens per image of a model without tiers.
        max_input_images: How many input images one request may hold.
    """

    name: str
    aliases: tuple[str, ...] = ()
    pixels: Mapping[str, tuple[int, int]]
    tiers: tuple[Tier, ...]
    default_tier: str | None
    untiered_output_tokens: int = 0
    max_input_images: int
    prices: Prices

    @property
    def aspect_ratios(self) -> tuple[str, ...]:
        """List the aspect ratios this model takes, as Gemini spells them."""
        return tuple(self.pixels)

    @property
    def tier_names(self) -> tuple[str, ...]:
        """List the tiers this model takes, smallest first, as Gemini spells them."""
        return tuple(tier.name for tier in self.tiers)

    def tier(self, name: str | None) -> Tier | None:
        """Return the tier called *name*, the default tier for None, or None where there is no such tier."""
        wanted = name or self.default_tier
        return next((tier for tier in self.tiers if tier.name == wanted), None)

    def pixel_size(self, tier: str | None, aspect_ratio: str | None) -> tuple[int, int]:
        """Return the width and height Gemini draws for *tier* and *aspect_ratio* (None: its defaults, 1:1)."""
        width, height = self.pixels[aspect_ratio or "1:1"]
        row = self.tier(tier)
        scale = row.scale if row else 1
        return round(width * scale), round(height * scale)

    def output_tokens(self, tier: str | None) -> int:
        """Return the output tokens that Gemini bills for one image of *tier*."""
        row = self.tier(tier)
        return row.output_tokens if row else self.untiered_output_tokens


_RATIO_PIXELS = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}
_FLASH_PIXELS = {
    **_RATIO_PIXELS,
    "1:4": (512, 2048),
    "4:1": (2048, 512),
    "1:8": (384, 3072),
    "8:1": (3072, 384),
}
_FLASH_2_5_PIXELS = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}

FAMILIES: tuple[ModelFamily, ...] = (
    ModelFamily(
        name="gemini-3-pro-image",
        aliases=("gemini-3-pro-image-preview",),
        pixels=MappingProxyType(_RATIO_PIXELS),
        tiers=(
            Tier(name="1K", scale=1, output_tokens=1120),
            Tier(name="2K", scale=2, output_tokens=1120),
            Tier(name="4K", scale=4, output_tokens=2000),
        ),
        default_tier="1K",
        max_input_images=14,
        prices=Prices(input_per_million=2.0, text_output_per_million=12.0, image_output_per_million=120.0),
    ),
    ModelFamily(
        name="gemini-3.1-flash-image",
        pixels=MappingProxyType(_FLASH_PIXELS),
        tiers=(
            Tier(name="512", scale=0.5, output_tokens=747),
            Tier(name="1K", scale=1, output_tokens=1120),
            Tier(name="2K", scale=2, output_tokens=1680),
            Tier(name="4K", scale=4, output_tokens=2520),
        ),
        default_tier="1K",
        max_input_images=14,
        prices=Prices(input_per_million=0.5, text_output_per_million=3.0, image_output_per_million=60.0),
    ),
    ModelFamily(
        name="gemini-3.1-flash-lite-image",
        pixels=MappingProxyType(_FLASH_PIXELS),
        tiers=(Tier(name="1K", scale=1, output_tokens=1120),),
        default_tier="1K",
        max_input_images=14,
        prices=Prices(input_per_million=0.25, text_output_per_million=1.5, image_output_per_million=30.0),
    ),
    ModelFamily(
        name="gemini-2.5-flash-image",
        pixels=MappingProxyType(_FLASH_2_5_PIXELS),
        tiers=(),
        default_tier=None,
        untiered_output_tokens=1290,
        max_input_images=3,
        prices=Prices(input_per_million=0.3, text_output_per_million=2.5, image_output_per_million=30.0),
    ),
)
