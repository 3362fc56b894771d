from __future__ import annotations

import pytest

from sfumato.images.prompts import HD_PHRASE, STYLE_PHRASES, enhance_prompt


def test_a_plain_prompt_stays_as_it_is() -> None:
    assert enhance_prompt(" a cat\n", quality=None, style=None, phrases=True) == " a cat\n"


@pytest.mark.parametrize("quality", ["high", "4k", "standard", "auto", "low", None])
def test_only_hd_adds_our_phrase(quality: str | None) -> None:
    assert enhance_prompt("a cat", quality=quality, style=None, phrases=True) == "a cat"
    assert enhance_prompt("a cat", quality="hd", style=None, phrases=True) == f"a cat\n\n{HD_PHRASE}"


@pytest.mark.parametrize("style", ["vivid", "natural"])
def test_styles_add_our_phrase_after_the_prompt(style: str) -> None:
    phrase = STYLE_PHRASES[style]
    assert enhance_prompt("a cat", quality=None, style=style, phrases=True) == f"a cat\n\n{phrase}"
    assert enhance_prompt("a cat", quality="hd", style=style, phrases=True) == f"a cat\n\n{HD_PHRASE}\n\n{phrase}"


def test_without_enhancement_only_the_client_s_own_style_is_added() -> None:
    for style in (None, "vivid", "natural"):
        assert enhance_prompt("a cat", quality="hd", style=style, phrases=False) == "a cat"
    for phrases in (True, False):
        own = enhance_prompt("a cat", quality=None, style="in the manner of Leonardo", phrases=phrases)
        assert own == "a cat\n\nStyle: in the manner of Leonardo"
