from __future__ import annotations

import functools
import hashlib
import io
import random
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageOps

from sfumato.errors import UpstreamFailureError
from sfumato.images.request import InputImage, Picture
from sfumato.pictures.compose import FEATHER_PIXELS, MaskedEdit
from sfumato.wire.payload import raw_bytes
from sfumato.wire.signature import Signature, read_signature

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIZE = (61, 47)
RED = (255, 0, 0)


def noise(mode: str = "RGB", size: tuple[int, int] = SIZE, seed: int = 3) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, random.Random(seed).randbytes(size[0] * size[1] * bands))


def encoded(image: Image.Image, container: str, **options: Any) -> bytes:
    output = io.BytesIO()
    image.save(output, container, **options)
    return output.getvalue()


def inspected(data: bytes) -> InputImage:
    signature = read_signature(data)
    assert isinstance(signature, Signature)
    width, height = signature.displayed_size
    return InputImage(data, signature.mime_type, width, height, signature.has_alpha, hashlib.sha256(data).hexdigest())


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def mask_of(alpha: Image.Image) -> InputImage:
    """Make a mask whose colours under the alpha say the opposite of its alpha."""
    image = alpha.point(lambda value: 255 - value).convert("RGB")
    image.putalpha(alpha)
    return inspected(encoded(image, "PNG"))


def hole(box: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Image.Image:
    alpha = Image.new("L", size, 255)
    alpha.paste(0, box)
    return alpha


def decoded(picture: Picture) -> Image.Image:
    image = Image.open(io.BytesIO(raw_bytes(picture)))
    assert picture.mime_type == Image.MIME[image.format or ""]
    assert (picture.width, picture.height) == image.size
    return image


def result_picture(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (32, 24)) -> bytes:
    return encoded(Image.new("RGB", size, colour), "PNG")


def composite(
    original: InputImage,
    mask: InputImage,
    result: bytes,
    *,
    output_format: Literal["png", "webp"],
    feather_pixels: int = FEATHER_PIXELS,
) -> Picture:
    return MaskedEdit(original, mask, output_format=output_format, feather_pixels=feather_pixels).composite(result)


def changed(before: Image.Image, after: Image.Image) -> Image.Image:
    """Return 255 where any band differs."""
    assert (before.mode, before.size) == (after.mode, after.size)
    bands = [
        ImageChops.difference(a, b).point([0] + [255] * 255) for a, b in zip(before.split(), after.split(), strict=True)
    ]
    return functools.reduce(ImageChops.lighter, bands)


def assert_kept(before: Image.Image, after: Image.Image, alpha: Image.Image) -> None:
    kept = alpha.point([0] + [255] * 255)
    assert ImageChops.darker(changed(before, after), kept).getextrema() == (0, 0)


ORIGINALS: dict[str, bytes] = {
    "png": encoded(noise(), "PNG"),
    "png rgba": encoded(noise("RGBA"), "PNG"),
    "png grey": encoded(noise("L"), "PNG"),
    "png grey alpha": encoded(noise("LA"), "PNG"),
    "png palette": encoded(noise().quantize(64), "PNG"),
    "png palette transparent": encoded(noise().quantize(64), "PNG", transparency=5),
    "png 1 bit": encoded(noise("L").convert("1"), "PNG"),
    "png turned": encoded(noise(size=SIZE[::-1]), "PNG", exif=exif(8)),
    "jpeg": encoded(noise(), "JPEG", quality=80),
    "jpeg grey": encoded(noise("L"), "JPEG"),
    "jpeg cmyk": encoded(noise("CMYK"), "JPEG"),
    **{f"jpeg turned {turn}": encoded(noise(size=SIZE[::-1]), "JPEG", exif=exif(turn)) for turn in (5, 6, 7, 8)},
    **{f"jpeg turned {turn}": encoded(noise(), "JPEG", exif=exif(turn)) for turn in (2, 3, 4)},
    "webp": encoded(noise(), "WEBP", quality=80),
    "webp rgba": encoded(noise("RGBA"), "WEBP", lossless=True, exact=True),
    "webp turned": encoded(noise(size=SIZE[::-1]), "WEBP", exif=exif(6)),
}


@pytest.mark.parametrize("output_format", ["png", "webp"])
@pytest.mark.parametrize("name", sorted(ORIGINALS))
def test_outside_the_mask_every_pixel_is_the_originals(name: str, output_format: Literal["png", "webp"]) -> None:
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(ORIGINALS[name])))
    reference = reference.convert("RGBA" if reference.has_transparency_data else "RGB")
    # A ragged mask: inner corners, specks, and every alpha from 0 up, where only 0 means "edit".
    alpha = ImageChops.darker(noise("L", seed=9).point(lambda value: max(0, value - 8)), hole((10, 10, 40, 33)))
    picture = composite(
        inspected(ORIGINALS[name]), mask_of(alpha), result_picture(), output_format=output_format, feather_pixels=4
    )
    after = decoded(picture)
    assert_kept(reference, after.convert(reference.mode), alpha)
    assert after.convert("RGB").getpixel((25, 21)) == RED


@settings(max_examples=60)
@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 46), st.integers(1, 40), st.integers(1, 40)),
        min_size=1,
        max_size=5,
    ),
    feather=st.integers(0, 9),
    mode=st.sampled_from(["RGB", "RGBA"]),
    seed=st.integers(0, 99),
)
def test_no_mask_and_no_feather_touches_what_is_kept(
    boxes: list[tuple[int, int, int, int]], feather: int, mode: str, seed: int
) -> None:
    original, alpha = noise(mode, seed=seed), Image.new("L", SIZE, 255)
    for left, top, width, height in boxes:
        alpha.paste(0, (left, top, left + width, top + height))
    picture = composite(
        inspected(encoded(original, "PNG")),
        mask_of(alpha),
        encoded(noise(seed=seed + 1), "PNG"),
        output_format="png",
        feather_pixels=feather,
    )
    assert_kept(original, decoded(picture), alpha)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_partly_transparent_pixel_is_kept(mode: str) -> None:
    alpha = Image.new("L", SIZE, 1)
    alpha.putpixel((60, 46), 0)
    original = inspected(encoded(noise(mode), "PNG"))
    after = decoded(composite(original, mask_of(alpha), result_picture(), output_format="webp"))
    expected = noise(mode)
    expected.putpixel((60, 46), RED if mode == "RGB" else (*RED, 255))
    assert after.tobytes() == expected.tobytes()


def test_all_that_composite_at_a_time_share_what_is_decoded_and_then_it_is_freed() -> None:
    edit = MaskedEdit(inspected(encoded(noise(), "PNG")), mask_of(hole((5, 5, 30, 30))), output_format="png")
    canvas = edit.canvas()
    before = canvas.pixels.tobytes(), canvas.weights.tobytes()
    with ThreadPoolExecutor(4) as threads:
        pictures = list(threads.map(edit.composite, [result_picture()] * 8))
        assert set(threads.map(lambda _: id(edit.canvas()), range(8))) == {id(canvas)}
    assert len({picture.raw for picture in pictures}) == 1
    assert (canvas.pixels.tobytes(), canvas.weights.tobytes()) == before
    gone = weakref.ref(canvas)
    del canvas
    assert gone() is None
    assert edit.composite(result_picture()) == pictures[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_blended_in_several_strips_has_no_seams(mode: str) -> None:
    """The result is stretched a few rows at a time; neighbours are taken from beyond the strip."""
    size = (40, 700)
    result, original = noise(size=(24, 90)), Image.new(mode, size, "black")
    picture = composite(
        inspected(encoded(original, "PNG")),
        mask_of(hole((3, 5, 37, 690), size)),
        encoded(result, "PNG"),
        output_format="png",
        feather_pixels=0,
    )
    expected = result.resize(size, Image.Resampling.LANCZOS).crop((3, 5, 37, 690))
    difference = ImageChops.difference(expected, decoded(picture).convert("RGB").crop((3, 5, 37, 690)))
    assert max(difference.tobytes()) <= 1, "rounded, no more: a seam in noise is 30 levels high"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_transparent_mask_returns_the_result_up_to_the_borders(mode: str) -> None:
    picture = composite(
        inspected(encoded(noise(mode), "PNG")), mask_of(Image.new("L", SIZE, 0)), result_picture(), output_format="png"
    )
    assert decoded(picture).convert("RGBA").getcolors() == [(SIZE[0] * SIZE[1], (*RED, 255))]


def test_the_result_is_stretched_to_the_originals_size() -> None:
    result = encoded(noise(size=(90, 30)), "PNG")
    picture = composite(
        inspected(encoded(noise(), "PNG")), mask_of(Image.new("L", SIZE, 0)), result, output_format="png"
    )
    expected = noise(size=(90, 30)).resize(SIZE, Image.Resampling.LANCZOS)
    assert decoded(picture).tobytes() == expected.tobytes()


def test_the_feather_rises_inside_the_edge_and_nowhere_else() -> None:
    original = inspected(encoded(Image.new("RGB", SIZE, "black"), "PNG"))
    picture = composite(
        original, mask_of(hole((20, 0, 61, 47))), result_picture((255, 255, 255)), output_format="png", feather_pixels=4
    )
    row = decoded(picture).getchannel("R").crop((0, 20, 61, 21)).tobytes()
    assert set(row[:20]) == {0}
    assert list(row[20:24]) == sorted(set(row[20:24]))
    assert 0 < row[20] < 64
    assert 192 < row[23] < 255
    assert set(row[24:]) == {255}


def test_without_a_feather_the_edge_is_hard() -> None:
    alpha = hole((20, 10, 40, 30))
    original = Image.new("RGB", SIZE, "black")
    picture = composite(
        inspected(encoded(original, "PNG")), mask_of(alpha), result_picture(), output_format="png", feather_pixels=0
    )
    assert changed(original, decoded(picture)).tobytes() == ImageChops.invert(alpha).tobytes()


@pytest.mark.parametrize("box", [(20, 5, 21, 45), (20, 20, 23, 23), (5, 20, 55, 24), (0, 0, 1, 1)])
def test_strokes_thinner_than_the_feather_are_still_edited(box: tuple[int, int, int, int]) -> None:
    original = inspected(encoded(Image.new("RGB", SIZE), "PNG"))
    picture = composite(original, mask_of(hole(box)), result_picture(), output_format="png", feather_pixels=4)
    assert decoded(picture).crop(box).getcolors() == [((box[2] - box[0]) * (box[3] - box[1]), RED)]


def test_nothing_hidden_in_a_transparent_hole_bleeds_into_the_edit() -> None:
    # A client that sends a picture with a hole sends the same file as its mask.
    original = Image.new("RGBA", SIZE, (0, 255, 0, 255))
    original.paste((0, 0, 255, 0), (10, 10, 50, 40))
    image = inspected(encoded(original, "PNG"))
    after = decoded(composite(image, image, result_picture(), output_format="png"))
    assert after.crop((10, 10, 50, 40)).getcolors() == [(40 * 30, (*RED, 255))]
    assert_kept(original, after, original.getchannel("A"))


def test_colours_under_alpha_0_outside_the_mask_survive_webp() -> None:
    original = noise("RGBA")
    original.putalpha(0)
    picture = composite(
        inspected(encoded(original, "PNG")), mask_of(hole((0, 0, 20, 20))), result_picture(), output_format="webp"
    )
    assert_kept(original, decoded(picture), hole((0, 0, 20, 20)))


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_the_colour_profile_stays_and_exif_goes(output_format: Literal["png", "webp"]) -> None:
    original = inspected(encoded(noise(), "JPEG", icc_profile=SRGB, exif=exif(3)))
    after = decoded(composite(original, mask_of(hole((5, 5, 9, 9))), result_picture(), output_format=output_format))
    assert after.info["icc_profile"] == SRGB
    assert 0x0112 not in after.getexif()


@pytest.mark.parametrize("result", [b"", b"nothing like a picture", result_picture()[:60]])
def test_a_result_that_cannot_be_decoded_is_upstreams_fault(result: bytes) -> None:
    with pytest.raises(UpstreamFailureError, match="unreadable picture"):
        composite(inspected(encoded(noise(), "PNG")), mask_of(hole((5, 5, 9, 9))), result, output_format="png")
