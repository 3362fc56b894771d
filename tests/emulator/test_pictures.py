from __future__ import annotations

import io
from typing import Any

import anyio
import httpx
import pybase64
import pytest
from PIL import Image
from starlette.applications import Starlette

from sfumato.emulator import create_emulator
from sfumato.images.models import FAMILIES
from sfumato.images.variants import Variant, list_variants

PRO = "gemini-3-pro-image"
VARIANTS = [variant for family in FAMILIES for variant in list_variants(family)]
SMALL = [variant for variant in VARIANTS if variant.tier in (None, "512")]
# The siblings share the big pixels of the first family but for the long ratios; two of those are enough.
BIG = [
    variant
    for variant in VARIANTS
    if variant.tier in ("2K", "4K") and (variant.family.name == PRO or variant.aspect_ratio in ("1:8", "8:1"))
]


def ask(
    app: Starlette,
    text: str = "A red bicycle",
    *,
    model: str = PRO,
    config: dict[str, Any] | None = None,
    images: tuple[bytes, ...] = (),
    **top: Any,
) -> httpx.Response:
    parts: list[dict[str, Any]] = [{"text": text}]
    parts += [{"inlineData": {"mimeType": mime_of(data), "data": pybase64.b64encode(data).decode()}} for data in images]
    body = {"contents": [{"role": "user", "parts": parts}], "generationConfig": config or {}, **top}

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as client:
            url = f"/v1beta/models/{model}:generateContent"
            return await client.post(url, json=body, headers={"x-goog-api-key": "test-key"})

    return anyio.run(call)


def mime_of(data: bytes) -> str:
    return "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"


def picture(width: int, height: int, *, color: str = "red", form: str = "PNG", exif: Image.Exif | None = None) -> bytes:
    out = io.BytesIO()
    extra = {"exif": exif} if exif else {}
    Image.new("RGB", (width, height), color).save(out, form, **extra)
    return out.getvalue()


def parts_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    parts: list[dict[str, Any]] = response.json()["candidates"][0]["content"]["parts"]
    return parts


def image_of(response: httpx.Response) -> tuple[str, bytes]:
    blob = parts_of(response)[-1]["inlineData"]
    return blob["mimeType"], pybase64.b64decode(blob["data"])


def size_of(response: httpx.Response) -> tuple[int, int]:
    with Image.open(io.BytesIO(image_of(response)[1])) as image:
        image.load()
        return image.size


def config_of(variant: Variant) -> dict[str, Any]:
    config = {"aspectRatio": variant.aspect_ratio, "imageSize": variant.tier}
    return {"imageConfig": {name: value for name, value in config.items() if value}}


@pytest.fixture(scope="module")
def app() -> Starlette:
    return create_emulator()


@pytest.mark.parametrize("variant", SMALL + BIG, ids=lambda variant: variant.name)
def test_every_variant_has_exactly_its_pixels(app: Starlette, variant: Variant) -> None:
    response = ask(app, model=variant.family.name, config=config_of(variant))
    assert size_of(response) == variant.family.pixel_size(variant.tier, variant.aspect_ratio)


def test_the_pro_model_has_33_variants_in_the_table_above() -> None:
    assert len([variant for variant in SMALL + BIG if variant.family.name == PRO]) == 33


def test_gemini_3_answers_jpeg_and_2_5_flash_png(app: Starlette) -> None:
    mime, data = image_of(ask(app))
    assert (mime, data[:3]) == ("image/jpeg", b"\xff\xd8\xff")
    mime, data = image_of(ask(app, model="gemini-2.5-flash-image"))
    assert (mime, data[:4]) == ("image/png", b"\x89PNG")


def test_a_seed_repeats_the_picture_and_no_seed_does_not(app: Starlette) -> None:
    assert image_of(ask(app, config={"seed": 7})) == image_of(ask(app, config={"seed": 7}))
    assert image_of(ask(app, config={"seed": 7})) != image_of(ask(app, config={"seed": 8}))
    assert image_of(ask(app)) != image_of(ask(app))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1600, 900), (1376, 768)), ((90, 160), (768, 1376)), ((100, 100), (1024, 1024)), ((2100, 900), (1584, 672))],
)
def test_an_edit_without_ratio_keeps_the_nearest_to_the_first_picture(
    app: Starlette, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert size_of(ask(app, images=(picture(*size), picture(100, 100)))) == expected


def test_the_ratio_of_an_input_is_that_of_its_upright_pixels(app: Starlette) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert size_of(ask(app, images=(picture(1600, 900, form="JPEG", exif=exif),))) == (768, 1376)


def test_a_ratio_asked_for_beats_the_input_picture(app: Starlette) -> None:
    config = {"imageConfig": {"aspectRatio": "1:1"}}
    assert size_of(ask(app, images=(picture(1600, 900),), config=config)) == (1024, 1024)


def test_an_edit_starts_from_the_first_input_picture(app: Starlette) -> None:
    def mean_of_top(color: str) -> tuple[float, ...]:
        data = image_of(ask(app, images=(picture(64, 64, color=color),), config={"seed": 1}))[1]
        with Image.open(io.BytesIO(data)) as image:
            pixel = image.resize((1, 1), box=(0, 0, 1024, 300)).getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return pixel

    red, blue = mean_of_top("red"), mean_of_top("blue")
    assert red[0] > blue[0] + 60
    assert blue[2] > red[2] + 60


def test_the_caption_tells_what_was_asked(app: Starlette) -> None:
    """Two answers that differ in one told fact alone differ in the caption's pixels."""

    def caption(**changes: Any) -> bytes:
        data = image_of(ask(app, config={"seed": 1}, **changes))[1]
        with Image.open(io.BytesIO(data)) as image:
            return image.crop((0, 700, 1024, 1024)).tobytes()

    strict = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_LOW_AND_ABOVE"}]
    assert caption() == caption()
    assert caption() != caption(safetySettings=strict)
    assert caption() != caption(text="A blue bicycle")


@pytest.mark.parametrize("text", ["猫 🐈 kočka", "x" * 32_000, "a\x00b\nc\u202ed", " "])
def test_any_prompt_can_be_drawn(app: Starlette, text: str) -> None:
    config = {"imageConfig": {"aspectRatio": "1:8", "imageSize": "512"}}
    assert size_of(ask(app, text, model="gemini-3.1-flash-image", config=config)) == (192, 1536)


def test_an_answer_has_google_s_shape(app: Starlette) -> None:
    response = ask(app, images=(picture(64, 64),), serviceTier="flex")
    assert response.headers["content-type"] == "application/json; charset=UTF-8"
    assert response.headers["server-timing"].startswith("gfet4t7; dur=")
    document = response.json()
    text, image = parts_of(response)
    assert set(text) == {"text", "thoughtSignature"}
    assert set(image) == {"inlineData", "thoughtSignature"}
    assert len(image["thoughtSignature"]) > 12_000
    assert pybase64.b64decode(image["thoughtSignature"], validate=True)
    assert document["candidates"][0]["finishReason"] == "STOP"
    assert document["modelVersion"] == PRO
    assert document["responseId"]
    usage = document["usageMetadata"]
    assert usage["promptTokensDetails"] == [
        {"modality": "TEXT", "tokenCount": 4},
        {"modality": "IMAGE", "tokenCount": 560},
    ]
    assert usage["promptTokenCount"] == 564
    assert usage["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": 1120}]
    assert usage["candidatesTokenCount"] > 1120
    total = usage["promptTokenCount"] + usage["candidatesTokenCount"] + usage["thoughtsTokenCount"]
    assert usage["totalTokenCount"] == total
    assert usage["serviceTier"] == "flex"


@pytest.mark.parametrize(("tier", "tokens"), [("1K", 1120), ("2K", 1120), ("4K", 2000)])
def test_image_tokens_are_the_tier_s(app: Starlette, tier: str, tokens: int) -> None:
    usage = ask(app, config={"imageConfig": {"imageSize": tier}}).json()["usageMetadata"]
    assert usage["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": tokens}]


def test_thoughts_come_first_when_asked_for(app: Starlette) -> None:
    parts = parts_of(ask(app, config={"thinkingConfig": {"include_thoughts": True}}))
    assert [bool(part.get("thought")) for part in parts] == [True, True, False, False]
    assert "inlineData" in parts[1]
    assert len(parts[1]["inlineData"]["data"]) < len(parts[-1]["inlineData"]["data"])


def test_modalities_decide_what_comes(app: Starlette) -> None:
    only_image = parts_of(ask(app, config={"responseModalities": ["IMAGE"]}))
    assert [set(part) for part in only_image] == [{"inlineData", "thoughtSignature"}]
    only_text = parts_of(ask(app, config={"responseModalities": ["TEXT"]}))
    assert ["text" in part for part in only_text] == [True]


def test_too_few_output_tokens_end_without_a_picture(app: Starlette) -> None:
    candidate = ask(app, config={"maxOutputTokens": 100}).json()["candidates"][0]
    assert candidate["finishReason"] == "MAX_TOKENS"
    assert candidate["content"] == {}


def test_search_adds_grounding(app: Starlette) -> None:
    response = ask(app, tools=[{"google_search": {"searchTypes": {"web_search": {}}}}])
    assert response.json()["candidates"][0]["groundingMetadata"]["webSearchQueries"]
