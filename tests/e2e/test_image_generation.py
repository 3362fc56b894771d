"""The epic's end-to-end cases, by their names: the real openai client, our app, and the emulator or the real API.

``pytest --live tests/e2e`` with GEMINI_API_KEY set runs them against Google; it makes about 25 pictures.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI
from PIL import Image

from sfumato.asgi.app import create_app
from sfumato.images.variants import Variant, canonical_variants, list_variants
from sfumato.settings import DEFAULT_API_BASE, load_settings
from tests.conftest import Emulator
from tests.support import genai, samples
from tests.support.servers import serving


@pytest.fixture(scope="module")
def client(
    emulator_server: Emulator, live_key: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenAI]:
    """The OpenAI client against sfumato as an app."""
    settings = load_settings(
        api_key=live_key or "test-key",
        api_base=DEFAULT_API_BASE if live_key else emulator_server.url,
        cache_dir=tmp_path_factory.mktemp("cache"),
        client_keys="tests:client-key",
    )
    with serving(create_app(settings)) as url, OpenAI(base_url=f"{url}/v1", api_key="client-key") as openai:
        yield openai


@pytest.fixture(autouse=True)
def upstream_bodies_are_valid(emulator: Emulator, live_key: str | None) -> Iterator[None]:
    """Hold every upstream body of a case against google-genai's own types."""
    yield
    if live_key is None:
        for call in emulator.calls():
            genai.validate(call["body"])


def picture(text: str | None) -> Image.Image:
    assert text
    return samples.from_base64(text)


def test_gemini_3_pro_image_generation(client: OpenAI) -> None:
    """One picture, in b64_json, truthfully described."""
    answer = client.images.generate(model="gemini-3-pro-image", prompt="A red bicycle by a canal")

    assert answer.data
    assert len(answer.data) == 1
    image = picture(answer.data[0].b64_json)
    assert answer.size == f"{image.width}x{image.height}"
    assert answer.output_format == (image.format or "").lower()
    assert answer.usage
    assert answer.usage.output_tokens_details
    assert answer.usage.output_tokens_details.image_tokens == 1120


def test_parallel_generation_n_4(client: OpenAI, emulator: Emulator, live_key: str | None) -> None:
    """Four pictures from four calls, all different."""
    answer = client.images.generate(model="gemini-3-pro-image", prompt="A lighthouse at dusk", n=4)

    assert len({item.b64_json for item in answer.data or []}) == 4
    if live_key is None:
        assert len(emulator.calls()) == 4


def test_parallel_generation_n_10(client: OpenAI, emulator: Emulator, live_key: str | None) -> None:
    """Ten pictures, at the same time and in their order; asked again, they are the same ten."""
    first = client.images.generate(model="gemini-3-pro-image", prompt="A paper boat", n=10)
    again = client.images.generate(model="gemini-3-pro-image", prompt="A paper boat", n=10)

    pictures = [item.b64_json for item in first.data or []]
    assert len(set(pictures)) == 10
    assert [item.b64_json for item in again.data or []] == pictures
    if live_key is None:
        assert len(emulator.calls()) == 10


def test_image_edit_with_mask(client: OpenAI, emulator: Emulator, live_key: str | None) -> None:
    """Outside the mask every pixel is the original's; inside it is not; the size stays."""
    original = samples.noise(320, 200)
    box = (80, 50, 240, 150)

    answer = client.images.edit(
        model="gemini-3-pro-image",
        image=("room.png", samples.encoded(original), "image/png"),
        mask=("mask.png", samples.mask(320, 200, box), "image/png"),
        prompt="Put a window here",
    )

    edited = picture((answer.data or [])[0].b64_json)
    assert edited.format == "PNG"
    assert edited.size == original.size
    kept = Image.new("L", original.size, 255)
    kept.paste(0, box)
    black = Image.new("RGB", original.size)
    assert (
        Image.composite(edited.convert("RGB"), black, kept).tobytes()
        == Image.composite(original, black, kept).tobytes()
    )
    assert edited.convert("RGB").crop(box).tobytes() != original.crop(box).tobytes()
    if live_key is None:
        (call,) = emulator.calls()
        assert len(call["body"]["contents"][0]["parts"]) == 3


def test_prompt_enhancement_hd_vivid(client: OpenAI, emulator: Emulator, live_key: str | None) -> None:
    """quality=hd and style=vivid add our phrases, and the answer tells the prompt that was used."""
    answer = client.images.generate(model="gemini-3-pro-image", prompt="A parrot", quality="hd", style="vivid")

    revised = (answer.data or [])[0].revised_prompt
    assert revised
    assert revised.startswith("A parrot")
    assert "high definition" in revised
    assert "vivid" in revised
    assert picture((answer.data or [])[0].b64_json).size == (4096, 4096)
    if live_key is None:
        (call,) = emulator.calls()
        assert call["body"]["contents"][0]["parts"][0]["text"] == revised


def test_response_format_b64_and_url(client: OpenAI) -> None:
    """Both formats give the same picture; the second is a hit on the first."""
    b64 = client.images.generate(model="gemini-3-pro-image", prompt="A teapot", response_format="b64_json")
    url = client.images.with_raw_response.generate(model="gemini-3-pro-image", prompt="A teapot", response_format="url")

    address = (url.parse().data or [])[0].url
    assert address
    assert address.startswith("data:image/jpeg;base64,")
    assert address.partition(",")[2] == (b64.data or [])[0].b64_json
    assert url.headers["x-gemini-image-cache"] == "hit"
    assert float(url.headers["x-gemini-image-cost"]) == 0


def spellings(variant: Variant) -> list[str]:
    """Return a variant's names: both orders, all spellings of the ratio."""
    base, tier = variant.family.name, variant.tier
    ratio = variant.aspect_ratio
    if ratio is None:
        return [variant.name]
    names = []
    for separator in "x-:":
        parts = [part for part in (tier and tier.lower(), ratio.replace(":", separator)) if part]
        names += ["-".join([base, *parts]), "-".join([base, *reversed(parts)])]
    return list(dict.fromkeys(names))


ALL_NAMES = list_variants(canonical_variants()[0].family)
assert len(canonical_variants()) == 21
assert len(ALL_NAMES) == 33


@pytest.mark.parametrize("variant", ALL_NAMES, ids=lambda variant: variant.name)
def test_aspect_ratio_and_resolution_variants(
    variant: Variant, client: OpenAI, emulator: Emulator, live_key: str | None
) -> None:
    """Every name, in every order and spelling, reaches Gemini as its imageConfig and comes back at its pixels."""
    if live_key is not None and variant.name not in ("gemini-3-pro-image-2k-16x9", "gemini-3-pro-image-21x9"):
        pytest.skip("the real API's quota: two names stand for all")
    expected = {
        name: value
        for name, value in (("aspectRatio", variant.aspect_ratio), ("imageSize", variant.tier))
        if value is not None
    }
    for place, name in enumerate(spellings(variant)):
        # The first is drawn afresh; the other spellings of the same request are hits on it.
        answer = client.images.with_raw_response.generate(model=name, prompt=f"Tiles for {variant.name}")
        image = picture((answer.parse().data or [])[0].b64_json)
        assert image.size == variant.family.pixel_size(variant.tier, variant.aspect_ratio)
        assert answer.headers["x-gemini-image-model"] == variant.name
        assert answer.headers["x-gemini-image-cache"] == ("hit" if place else "miss")
    if live_key is None:
        (call,) = emulator.calls()
        assert call["body"]["generationConfig"].get("imageConfig", {}) == expected


def test_every_spelling_reaches_gemini(client: OpenAI, emulator: Emulator, live_key: str | None) -> None:
    """Without the cache, each spelling of a name sends the same imageConfig."""
    if live_key is not None:
        pytest.skip("what was sent can be read from the emulator only")
    variant = canonical_variants()[-2]
    for name in spellings(variant):
        client.images.generate(model=name, prompt="Tiles", extra_headers={"cache-control": "no-store, no-cache"})
    configs = [call["body"]["generationConfig"]["imageConfig"] for call in emulator.calls()]
    assert configs == [{"aspectRatio": variant.aspect_ratio, "imageSize": variant.tier}] * len(spellings(variant))


def test_a_refusal_is_an_error(client: OpenAI, live_key: str | None) -> None:
    """A refusal is HTTP 200 upstream and a 400 moderation_blocked here."""
    if live_key is not None:
        pytest.skip("what the real API refuses is not ours to provoke")
    with pytest.raises(BadRequestError) as refused:
        client.images.generate(model="gemini-3-pro-image", prompt="x [[emulator:IMAGE_SAFETY]]")
    assert refused.value.code == "moderation_blocked"
    assert refused.value.type == "image_generation_user_error"


def test_files_and_names_do_not_matter(client: OpenAI, tmp_path: Path) -> None:
    """An edit takes what the client library takes: paths, file objects, several pictures."""
    path = tmp_path / "secret name.jpeg"
    path.write_bytes(samples.encoded(samples.noise(64, 64), "JPEG"))
    answer = client.images.edit(
        model="gemini-3-pro-image-1x1",
        image=[path, io.BytesIO(samples.encoded(samples.noise(64, 64, seed=2), "WEBP"))],
        prompt="Merge them",
    )
    assert picture((answer.data or [])[0].b64_json).size == (1024, 1024)
    assert base64.b64decode((answer.data or [])[0].b64_json or "").startswith(b"\xff\xd8")
