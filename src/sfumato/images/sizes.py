"""The one precedence rule: variant, size, quality and Gemini's own words to an aspect ratio and a tier.

Ratio: ``aspect_ratio`` > variant > ``size`` > none.
Tier: ``image_size`` > variant > ``quality`` > pixels of ``size`` > the operator's default > none.
A variant therefore beats ``size`` and ``quality``, which many clients always send; an explicit ``aspect_ratio`` or
``image_size`` that contradicts the variant is refused: nobody is billed for another image than the name says.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sfumato.errors import InvalidParameterError
from sfumato.images.models import ModelFamily
from sfumato.images.variants import Variant

QUALITY_TIERS: dict[str, str | None] = {
    "hd": "4K",
    "high": "4K",
    "xhigh": "4K",
    "max": "4K",
    "4k": "4K",
    "standard": "2K",
    "medium": "2K",
    "2k": "2K",
    "low": "1K",
    "1k": "1K",
    "auto": None,
}
_TIERS = ("512", "1K", "2K", "4K")
# Nobody who asks for 3840x2160 means to lose a tier over 2 % of the pixels.
_ENOUGH_PIXELS = 0.95
_PIXELS = re.compile(r"^(\d{1,5})[xX](\d{1,5})$")
_RATIO = re.compile(r"^(\d{1,3})[:xX-](\d{1,3})$")


@dataclass(frozen=True, slots=True)
class Size:
    """A parsed ``size``: pixels, or a ratio, or neither for ``auto``."""

    pixels: tuple[int, int] | None = None
    aspect_ratio: str | None = None


def parse_size(value: str, family: ModelFamily) -> Size:
    """Read OpenAI's ``size``: ``auto``, ``WxH`` or a ratio such as ``16:9``.

    Raises:
        InvalidParameterError: It is none of these, or a ratio that the model does not take.
    """
    word = value.strip().lower()
    if word == "auto":
        return Size()
    if ":" in word:
        return Size(aspect_ratio=parse_aspect_ratio(word, family, param="size"))
    match = _PIXELS.match(word)
    if match and int(match[1]) and int(match[2]):
        return Size(pixels=(int(match[1]), int(match[2])))
    msg = "Invalid value for 'size': expected 'auto', WIDTHxHEIGHT such as 1024x1024, or a ratio such as 16:9."
    raise InvalidParameterError(msg, param="size")


def parse_aspect_ratio(value: str, family: ModelFamily, *, param: str = "aspect_ratio") -> str:
    """Read an aspect ratio (``16:9``, ``16x9`` or ``16-9``) that the model takes.

    Raises:
        InvalidParameterError: The model's row does not list it.
    """
    match = _RATIO.match(value.strip())
    ratio = f"{int(match[1])}:{int(match[2])}" if match else value
    if ratio in family.pixels:
        return ratio
    msg = f"Invalid value for '{param}': {family.name} takes {', '.join(family.aspect_ratios)}."
    raise InvalidParameterError(msg, param=param)


def parse_tier(value: str, family: ModelFamily, *, param: str = "image_size") -> str:
    """Read a tier in any case; Gemini itself takes the upper-case ``K`` only.

    Raises:
        InvalidParameterError: The model's row does not list it.
    """
    tier = value.strip().upper()
    if tier in family.tier_names:
        return tier
    allowed = f"takes {', '.join(family.tier_names)}" if family.tiers else "has one size and takes no tier"
    msg = f"Invalid value for '{param}': {family.name} {allowed}."
    raise InvalidParameterError(msg, param=param)


def parse_quality(value: str) -> str | None:
    """Return the tier that an OpenAI ``quality`` means, None for ``auto``.

    Raises:
        InvalidParameterError: The word is not known.
    """
    word = value.strip().lower()
    if word in QUALITY_TIERS:
        return QUALITY_TIERS[word]
    msg = f"Invalid value for 'quality': expected one of {', '.join(QUALITY_TIERS)}."
    raise InvalidParameterError(msg, param="quality")


def nearest_aspect_ratio(width: int, height: int, family: ModelFamily) -> str:
    """Return the model's ratio nearest to *width* by *height*, measured by the logarithm of w/h."""
    wanted = math.log(width / height)

    def distance(ratio: str) -> float:
        w, h = ratio.split(":")
        return abs(math.log(int(w) / int(h)) - wanted)

    return min(family.aspect_ratios, key=distance)


def covering_tier(width: int, height: int, aspect_ratio: str, family: ModelFamily) -> str | None:
    """Return the smallest tier with at least 95 % of *width* x *height* pixels at *aspect_ratio*, else the largest."""
    for tier in family.tier_names:
        w, h = family.pixel_size(tier, aspect_ratio)
        if w * h >= _ENOUGH_PIXELS * width * height:
            return tier
    return family.tier_names[-1] if family.tiers else None


def resolve_aspect_ratio(variant: Variant, *, aspect_ratio: str | None, size: Size) -> str | None:
    """Apply the precedence of ratios; *aspect_ratio* is already validated against the model.

    Raises:
        InvalidParameterError: *aspect_ratio* contradicts the variant.
    """
    if aspect_ratio and variant.aspect_ratio and aspect_ratio != variant.aspect_ratio:
        raise _contradiction("aspect_ratio", aspect_ratio, variant)
    if size.pixels:
        size = Size(aspect_ratio=nearest_aspect_ratio(*size.pixels, variant.family))
    return aspect_ratio or variant.aspect_ratio or size.aspect_ratio


def resolve_tier(
    variant: Variant,
    *,
    image_size: str | None,
    quality: str | None,
    size: Size,
    aspect_ratio: str | None,
    default: str | None,
) -> str | None:
    """Apply the precedence of tiers.

    Args:
        variant: The model and what its name fixed.
        image_size: Gemini's own word, already validated against the model.
        quality: The client's ``quality``, already known to be one of `QUALITY_TIERS`.
        size: The parsed ``size``.
        aspect_ratio: The resolved ratio, at which the pixels of *size* are compared.
        default: The operator's default tier.

    Raises:
        InvalidParameterError: *image_size* contradicts the variant.
    """
    family = variant.family
    if image_size and variant.tier and image_size != variant.tier:
        raise _contradiction("image_size", image_size, variant)
    chosen = image_size or variant.tier
    if chosen or not family.tiers:
        return chosen
    by_quality = parse_quality(quality) if quality else None
    if by_quality:
        return _nearest_tier(by_quality, family)
    if size.pixels:
        ratio = aspect_ratio or nearest_aspect_ratio(*size.pixels, family)
        return covering_tier(*size.pixels, ratio, family)
    return _nearest_tier(default, family) if default else None


def _nearest_tier(tier: str, family: ModelFamily) -> str:
    """Return the model's smallest tier that is not below *tier*, or its largest where it stops below."""
    enough = _TIERS[_TIERS.index(tier) :]
    return next((name for name in family.tier_names if name in enough), family.tier_names[-1])


def _contradiction(param: str, value: str, variant: Variant) -> InvalidParameterError:
    msg = (
        f"'{param}' is {value}, but the model name {variant.name} says otherwise: "
        f"send one of the two, or use the model {variant.family.name}."
    )
    return InvalidParameterError(msg, param=param)
