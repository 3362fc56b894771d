"""Variant names: ``{base}[-{tier}][-{ratio}]`` in any order, with the grammar read from the model's row."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sfumato.errors import ModelNotFoundError
from sfumato.images.models import FAMILIES, ModelFamily

PREFIXES = ("models/", "gemini/", "gemini-image/")
CANONICAL_RATIOS = ("1:1", "4:3", "3:4", "16:9", "9:16", "21:9")
_HD_TIER = "4K"
_MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Variant:
    """A model with the tier and the aspect ratio that its name fixes; None where the name leaves them open."""

    family: ModelFamily
    tier: str | None = None
    aspect_ratio: str | None = None

    @property
    def name(self) -> str:
        """Format the canonical name, in the order base, tier, ratio: ``gemini-3-pro-image-4k-16x9``."""
        parts = [self.family.name]
        if self.tier:
            parts.append(self.tier.lower())
        if self.aspect_ratio:
            parts.append(self.aspect_ratio.replace(":", "x"))
        return "-".join(parts)


def parse_variant(name: str) -> Variant | None:
    """Read a model name; None means that it is of no family served here.

    Case and a ``models/``, ``gemini/`` or ``gemini-image/`` prefix do not matter; ratios may be spelled ``16x9``,
    ``16-9`` or ``16:9``; ``hd`` means the tier 4K.

    Raises:
        ModelNotFoundError: The base is known and the rest is not; the message names the closest variants.
    """
    plain = name.strip().lower()
    for prefix in PREFIXES:
        plain = plain.removeprefix(prefix)
    found = _split_base(plain)
    if found is None:
        return None
    family, rest = found
    tier: str | None = None
    ratio: str | None = None
    for kind, value in _suffixes(family, rest):
        if kind == "tier" and tier is None:
            tier = value
        elif kind == "ratio" and ratio is None:
            ratio = value
        else:
            raise _not_found(name, plain, family)
    return Variant(family, tier, ratio)


def require_variant(name: str | None) -> Variant:
    """Read the name of a model served here, as `parse_variant` does.

    Raises:
        ModelNotFoundError: It is of no family served here, or the base is known and the rest is not.
    """
    variant = parse_variant(name) if name else None
    if variant is None:
        named = f"The model '{name[:_MAX_NAME_CHARS]}'" if name else "This model"
        served = ", ".join(family.name for family in FAMILIES)
        raise ModelNotFoundError(f"{named} is not served here. Served: {served}, and their variants.", param="model")
    return variant


def list_variants(family: ModelFamily, aspect_ratios: tuple[str, ...] | None = None) -> tuple[Variant, ...]:
    """List a model's variants by tier, then ratio; the default tier is listed by the plain base name only.

    Args:
        family: The model.
        aspect_ratios: Ratios to list, every ratio of the row by default.
    """
    ratios = family.aspect_ratios if aspect_ratios is None else aspect_ratios
    tiers = [None, *(tier for tier in family.tier_names if tier != family.default_tier)]
    return tuple(Variant(family, tier, ratio) for tier in tiers for ratio in (None, *ratios))


def canonical_variants() -> tuple[Variant, ...]:
    """List the 21 canonical variants of gemini-3-pro-image: {none, 2k, 4k} by {none and six ratios}."""
    return list_variants(FAMILIES[0], CANONICAL_RATIOS)


def _split_base(plain: str) -> tuple[ModelFamily, str] | None:
    bases = [(base, family) for family in FAMILIES for base in (family.name, *family.aliases)]
    for base, family in sorted(bases, key=lambda pair: -len(pair[0])):
        rest = plain.removeprefix(base)
        # A letter or digit right after the base makes it another word, so another model.
        if len(rest) < len(plain) and not rest[:1].isalnum():
            return family, rest
    return None


def _suffixes(family: ModelFamily, rest: str) -> Iterator[tuple[str, str]]:
    """Yield each suffix as ("tier" | "ratio" | "unknown", value)."""
    if not rest:
        return
    tiers = {tier.lower(): tier for tier in family.tier_names}
    if _HD_TIER in family.tier_names:
        tiers["hd"] = _HD_TIER
    words = rest.split("-")
    if words.pop(0):
        words = [rest]
    while words:
        pair = ":".join(words[:2])
        single = re.sub(r"^(\d+)[x:](\d+)$", r"\1:\2", words[0])
        if len(words) > 1 and pair in family.pixels:
            yield "ratio", pair
            del words[:2]
        elif single in family.pixels:
            yield "ratio", single
            del words[:1]
        else:
            yield ("tier", tiers[words[0]]) if words[0] in tiers else ("unknown", words[0])
            del words[:1]


def _not_found(name: str, plain: str, family: ModelFamily) -> ModelNotFoundError:
    names = [variant.name for variant in list_variants(family)]
    closest = difflib.get_close_matches(plain[:_MAX_NAME_CHARS], names, n=3, cutoff=0.0)
    return ModelNotFoundError(
        f"The model '{name[:_MAX_NAME_CHARS]}' does not exist: '{family.name}' has no such variant. "
        f"Closest: {', '.join(closest)}.",
        param="model",
    )
