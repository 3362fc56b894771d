from __future__ import annotations

import pytest

from sfumato.images.models import FAMILIES
from sfumato.images.pricing import price_usd
from sfumato.images.request import Usage

PRO, FLASH, _, FLASH_2_5 = FAMILIES


def test_the_recorded_usage_of_the_reference() -> None:
    # 14 in, 1120 image out, 337 text and thinking out: 0.000028 + 0.1344 + 0.004044.
    usage = Usage(
        input_tokens=14,
        input_text_tokens=14,
        output_tokens=1457,
        output_text_tokens=337,
        output_image_tokens=1120,
        thinking_tokens=174,
        total_tokens=1471,
    )
    assert price_usd(PRO, "1K", usage) == pytest.approx(0.138472)


def test_thinking_tokens_cost_as_text() -> None:
    plain = Usage(output_tokens=1120, output_image_tokens=1120, total_tokens=1120)
    thinking = plain + Usage(output_tokens=1000, output_text_tokens=1000, thinking_tokens=1000, total_tokens=1000)
    assert price_usd(PRO, None, thinking) - price_usd(PRO, None, plain) == pytest.approx(0.012)


def test_unflagged_drafts_cost_as_pictures() -> None:
    usage = Usage(output_tokens=3360, output_image_tokens=3360, total_tokens=3360)
    assert price_usd(PRO, None, usage) == pytest.approx(0.4032)


def test_without_counts_the_row_is_the_estimate() -> None:
    assert price_usd(PRO, None, Usage()) == pytest.approx(0.1344)
    assert price_usd(PRO, "4K", Usage()) == pytest.approx(0.24)
    assert price_usd(FLASH_2_5, None, Usage()) == pytest.approx(0.0387)


def test_a_picture_that_is_not_counted_apart_does_not_cost_as_text() -> None:
    told = Usage(output_tokens=1220, output_text_tokens=100, output_image_tokens=1120, total_tokens=1220)
    untold = Usage(output_tokens=1220, output_text_tokens=1220, total_tokens=1220)
    assert price_usd(PRO, "2K", untold) == pytest.approx(price_usd(PRO, "2K", told))


def test_an_answer_of_text_alone_costs_as_text() -> None:
    usage = Usage(input_tokens=10, output_tokens=500, output_text_tokens=500, total_tokens=510)
    assert price_usd(FLASH, "1K", usage) == pytest.approx((10 * 0.5 + 500 * 3) / 1e6)
