from __future__ import annotations

import datetime as dt

import pytest

from sfumato.errors import ConfigurationError
from sfumato.images.models import FAMILIES
from sfumato.images.prices import parse_prices
from sfumato.images.pricing import price_usd
from sfumato.images.request import Usage

PRO, FLASH = FAMILIES[0], FAMILIES[1]
USAGE = Usage(input_tokens=1_000_000, output_tokens=1_000_000, output_image_tokens=1_000_000, total_tokens=2_000_000)


def test_every_row_tells_where_its_prices_stand_and_when_they_were_seen() -> None:
    for family in FAMILIES:
        assert family.prices.source.startswith("https://ai.google.dev/")
        assert family.prices.seen
        dt.date.fromisoformat(family.prices.seen)


def test_own_prices_go_first_and_what_is_left_out_stays() -> None:
    own = parse_prices('["gemini-3-pro-image"]\ninput_per_million = 1\nimage_output_per_million = 60.5\n')
    prices = own["gemini-3-pro-image"]
    assert (prices.input_per_million, prices.image_output_per_million) == (1.0, 60.5)
    assert prices.text_output_per_million == PRO.prices.text_output_per_million
    assert (prices.source, prices.seen) == ("the operator's prices file", None)
    assert price_usd(PRO, "1K", USAGE, own_prices=own) == pytest.approx(61.5)
    assert price_usd(FLASH, "1K", USAGE, own_prices=own) == price_usd(FLASH, "1K", USAGE)


def test_a_file_may_name_no_model() -> None:
    assert parse_prices("") == {}
    assert parse_prices('["gemini-3.1-flash-image"]')["gemini-3.1-flash-image"].input_per_million == 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "This is no TOML"),
        ('["gemini-3-pro-imag"]', "Did you mean 'gemini-3-pro-image'?"),
        ('["dall-e-3"]', "Use one of gemini-3-pro-image"),
        ("[gemini-3.1-flash-image]\ninput_per_million = 1", "Quote a name that holds a dot"),
        ('"gemini-3-pro-image" = 3', "must be a table"),
        ('["gemini-3-pro-image"]\ninput_per_milion = 1', "Did you mean 'input_per_million'?"),
        ('["gemini-3-pro-image"]\nseen = 1', "has no price 'seen'"),
        ('["gemini-3-pro-image"]\ninput_per_million = -1', "'input_per_million' of 'gemini-3-pro-image'"),
        ('["gemini-3-pro-image"]\ninput_per_million = "1"', "must be a number of US dollars"),
        ('["gemini-3-pro-image"]\ninput_per_million = true', "must be a number of US dollars"),
        ('["gemini-3-pro-image"]\ninput_per_million = nan', "must be a number of US dollars"),
        ('["gemini-3-pro-image"]\ninput_per_million = inf', "must be a number of US dollars"),
    ],
)
def test_what_cannot_be_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_prices(text)
    assert told in caught.value.message
