"""Usage to US dollars, by the prices in the model's row or the operator's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sfumato.images.models import ModelFamily, Prices
from sfumato.images.request import Usage

_NO_OWN: Mapping[str, Prices] = MappingProxyType({})


def price_usd(
    family: ModelFamily, tier: str | None, usage: Usage, *, own_prices: Mapping[str, Prices] = _NO_OWN
) -> float:
    """Return what Gemini bills for one answer with a picture, in USD: at *own_prices*, else at the standard rate.

    Thinking tokens and unlabelled drafts count as Gemini counted them. Where the answer had no counts, or counted
    the picture's tokens among the text's, the tokens of the model's row are the estimate.
    """
    prices = own_prices.get(family.name, family.prices)
    image_tokens, text_tokens = usage.output_image_tokens, usage.output_text_tokens
    expected = family.output_tokens(tier)
    if image_tokens == 0 and (usage.total_tokens == 0 or text_tokens >= expected):
        image_tokens, text_tokens = expected, max(0, text_tokens - expected)
    return (
        usage.input_tokens * prices.input_per_million
        + text_tokens * prices.text_output_per_million
        + image_tokens * prices.image_output_per_million
    ) / 1_000_000
