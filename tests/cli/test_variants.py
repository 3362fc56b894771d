from __future__ import annotations

import yaml  # type: ignore[import-untyped]  # LiteLLM brings it, its stubs nobody

from sfumato.images.models import FAMILIES
from sfumato.images.variants import canonical_variants, list_variants, parse_variant
from tests.cli.conftest import Command

PRO = [variant.name for variant in list_variants(FAMILIES[0])]


def test_the_table_tells_ratio_tier_pixels_and_price(sfumato: Command) -> None:
    ended = sfumato("variants")

    assert ended.status == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.out.splitlines() if "│" in line]
    assert [row[0] for row in rows] == PRO
    assert ["gemini-3-pro-image-4k-16x9", "16:9", "4K", "5504x3072", "0.240"] in rows
    assert ["gemini-3-pro-image", "-", "1K", "1024x1024", "0.134"] in rows


def test_plain_is_one_name_a_line(sfumato: Command) -> None:
    assert sfumato("variants", "--plain").out.splitlines() == PRO
    assert len(PRO) == 33


def test_canonical_are_the_21(sfumato: Command) -> None:
    names = sfumato("variants", "--plain", "--canonical").out.splitlines()

    assert names == [variant.name for variant in canonical_variants()]
    assert len(names) == 21


def test_another_model_and_all_models_can_be_listed(sfumato: Command) -> None:
    flash = sfumato("variants", "--plain", "--model", "gemini-2.5-flash-image").out.splitlines()
    every = sfumato("variants", "--plain", "--model", "all").out.splitlines()

    assert flash == [variant.name for variant in list_variants(FAMILIES[-1])]
    assert every == [variant.name for family in FAMILIES for variant in list_variants(family)]
    assert not sfumato("variants", "--plain", "--canonical", "--model", "gemini-2.5-flash-image").out.strip()


def test_an_unknown_model_is_refused_with_the_known_ones(sfumato: Command) -> None:
    ended = sfumato("variants", "--model", "dall-e-3")

    assert ended.status == 1
    assert "dall-e-3" in ended.err
    assert "gemini-3-pro-image" in ended.err


def test_litellm_entries_are_yaml_that_litellm_routes_to_us(sfumato: Command) -> None:
    entries = yaml.safe_load(sfumato("variants", "--litellm").out)["model_list"]

    assert [entry["model_name"] for entry in entries] == PRO
    for entry in entries:
        provider, _, model = entry["litellm_params"]["model"].partition("/")
        assert provider == "gemini-image"
        assert parse_variant(model) == parse_variant(entry["model_name"])
        assert entry["model_info"]["mode"] == "image_generation"
