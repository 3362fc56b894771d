"""Usage to US dollars, by the prices in the model's row."""

from __future__ import annotations

from sfumato.images.models import ModelFamily
from sfumato.images.request import Usage


def price_usd(family: ModelFamily, tier: str | None, usage: Usage) -> float:
    """Return what Gemini bills for one answer with a picture, in USD at the standard rate.

    Thinking tokens and unlabelled drafts count as Gemini counted them. Where the answer had no counts, or counted
    the picture's tokens among the text's, the tokens of the model's row are the estimate.
    """
    prices = family.prices
    image_tokens, text_tokens = usage.output_image_tokens, usage.output_text_tokens
    expected = family.output_tokens(tier)
    if image_tokens == 0 and (usage.total_tokens == 0 or text_tokens >= expected):
        image_tokens, text_tokens = expected, max(0, text_tokens - expected)
    return (
        usage.input_tokens * prices.input_per_million
        + text_tokens * prices.text_output_per_million
        + image_tokens * prices.image_output_per_million
    ) / 1_000_000
