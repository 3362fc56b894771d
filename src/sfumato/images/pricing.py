"""Usage to US dollars, by the prices in the model's row."""

from __future__ import annotations

from sfumato.images.models import ModelFamily
from sfumato.images.request import Usage


def price_usd(family: ModelFamily, tier: str | None, usage: Usage) -> float:
    """Return what Gemini bills for one answer with a picture, in USD at the standard rate.

    Thinking tokens and unlabelled drafts count as Gemini counted them. When the answer had no counts, the
    picture's own output tokens from the model's row are the estimate.
    """
    prices = family.prices
    if usage.total_tokens == 0:
        return family.output_tokens(tier) * prices.image_output_per_million / 1_000_000
    return (
        usage.input_tokens * prices.input_per_million
        + usage.output_text_tokens * prices.text_output_per_million
        + usage.output_image_tokens * prices.image_output_per_million
    ) / 1_000_000
