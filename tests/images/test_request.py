from __future__ import annotations

import pytest

from sfumato.errors import NoImageError
from sfumato.images.models import FAMILIES
from sfumato.images.request import GeneratedImage, ImageRequest, ImageResult, Operation, Picture, SlotFailure, Usage
from sfumato.images.safety import Safety
from sfumato.images.variants import Variant


def request(tier: str | None, ratio: str | None, variant: Variant | None = None) -> ImageRequest:
    return ImageRequest(
        operation=Operation.GENERATION,
        variant=variant or Variant(FAMILIES[0]),
        prompt="a cat",
        effective_prompt="a cat",
        safety=Safety(),
        aspect_ratio=ratio,
        tier=tier,
    )


def image(slot: int, *, age: float | None) -> GeneratedImage:
    return GeneratedImage(
        slot=slot,
        picture=Picture(raw=b"x", mime_type="image/jpeg", width=1, height=1),
        usage=Usage(input_tokens=1, output_tokens=2, total_tokens=3),
        price_usd=0.25,
        created=100.0,
        age_seconds=age,
    )


@pytest.mark.parametrize("forms", [{}, {"encoded": (b"eA==",), "raw": b"x"}])
def test_a_picture_has_exactly_one_form(forms: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="either encoded pieces or raw bytes"):
        Picture(mime_type="image/png", width=1, height=1, **forms)  # type: ignore[arg-type]  # what the test is about


def test_a_picture_tells_openai_s_word_for_its_format() -> None:
    assert Picture(raw=b"", mime_type="image/webp", width=1, height=1).format == "webp"


@pytest.mark.parametrize(
    ("tier", "ratio", "name"),
    [
        (None, None, "gemini-3-pro-image"),
        ("1K", None, "gemini-3-pro-image"),
        ("1K", "16:9", "gemini-3-pro-image-16x9"),
        ("4K", "16:9", "gemini-3-pro-image-4k-16x9"),
    ],
)
def test_the_resolved_variant_is_what_is_asked_of_gemini(tier: str | None, ratio: str | None, name: str) -> None:
    assert request(tier, ratio, Variant(FAMILIES[0], "2K")).resolved_variant.name == name


def test_a_result_adds_up_its_pictures() -> None:
    failure = SlotFailure(2, NoImageError("m"))
    result = ImageResult(
        request=request(None, None),
        images=(image(0, age=None), image(1, age=5.0), image(3, age=9.0)),
        failures=(failure,),
    )
    assert result.usage == Usage(input_tokens=3, output_tokens=6, total_tokens=9)
    assert result.cost_usd == 0.25
    assert result.savings_usd == 0.5
    assert result.age_seconds == 9.0
    assert ImageResult(request=request(None, None), images=(image(0, age=None),)).age_seconds is None
