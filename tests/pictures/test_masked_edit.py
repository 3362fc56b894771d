"""What is checked, and drawn for Gemini, before a masked edit is billed."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageChops

from sfumato.errors import InvalidImageError, InvalidParameterError
from sfumato.images.request import InputImage
from sfumato.pictures.compose import MaskedEdit
from sfumato.pictures.inspect import ImageLimits, inspect_image
from tests.support.samples import encoded, noise

SIZE = (61, 47)


def inspected(data: bytes) -> InputImage:
    return inspect_image(data, param="image", limits=ImageLimits(max_pixels=10**6, max_bytes=10**6))


def mask_of(alpha: Image.Image) -> InputImage:
    mask = Image.new("RGB", alpha.size)
    mask.putalpha(alpha)
    return inspected(encoded(mask))


def hole(box: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Image.Image:
    alpha = Image.new("L", size, 255)
    alpha.paste(0, box)
    return alpha


@pytest.mark.parametrize("alpha", [1, 128, 255])
def test_a_mask_that_lets_nothing_be_edited_is_refused(alpha: int) -> None:
    original = inspected(encoded(noise(*SIZE), "PNG"))
    with pytest.raises(InvalidImageError, match="no fully transparent pixel") as caught:
        MaskedEdit(original, mask_of(Image.new("L", SIZE, alpha)), output_format="png")
    assert caught.value.param == "mask"


def test_the_mask_picture_is_white_exactly_where_alpha_is_0() -> None:
    """The trap of other gateways: converting the mask's colours, where black lies under alpha 0."""
    alpha = Image.new("L", (4, 1))
    alpha.putdata([0, 1, 128, 255])
    for colour in ("black", "white"):
        mask = Image.new("RGB", (4, 1), colour)
        mask.putalpha(alpha)
        edit = MaskedEdit(inspected(encoded(noise(4, 1), "PNG")), inspected(encoded(mask, "PNG")), output_format="png")
        picture = Image.open(io.BytesIO(edit.mask_picture))
        assert (picture.format, picture.mode, picture.tobytes()) == ("PNG", "L", bytes([255, 0, 0, 0]))


@pytest.mark.parametrize("mode", ["P", "LA", "L", "RGB"])
def test_masks_of_every_transparent_kind_are_read(mode: str) -> None:
    if mode == "LA":
        mask = Image.merge("LA", (Image.new("L", SIZE, 0), hole((1, 1, 5, 5))))
        data = encoded(mask, "PNG")
    else:
        picture = hole((1, 1, 5, 5)).convert(mode)
        data = encoded(picture, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    edit = MaskedEdit(inspected(encoded(noise(*SIZE), "PNG")), inspected(data), output_format="png")
    drawn = Image.open(io.BytesIO(edit.mask_picture))
    assert drawn.tobytes() == ImageChops.invert(hole((1, 1, 5, 5))).tobytes()


def test_a_mask_without_alpha_or_of_another_size_is_refused() -> None:
    original = inspected(encoded(noise(*SIZE), "PNG"))
    for mask in (original, mask_of(Image.new("L", (61, 46), 0)), mask_of(Image.new("L", SIZE[::-1], 0))):
        with pytest.raises(InvalidImageError) as caught:
            MaskedEdit(original, mask, output_format="png")
        assert caught.value.param == "mask"


def test_an_original_that_decodes_to_another_size_than_inspected_is_refused() -> None:
    original = InputImage(encoded(noise(*SIZE), "PNG"), "image/png", 60, 47, has_alpha=False, digest="")
    with pytest.raises(InvalidImageError, match="damaged"):
        MaskedEdit(original, mask_of(Image.new("L", (60, 47), 0)), output_format="png")


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP"])
def test_a_cut_original_is_the_clients_fault(container: str) -> None:
    data = encoded(noise(*SIZE), container)
    original = InputImage(data[: len(data) // 2], f"image/{container.lower()}", *SIZE, has_alpha=False, digest="")
    with pytest.raises(InvalidImageError, match="damaged") as caught:
        MaskedEdit(original, mask_of(hole((5, 5, 9, 9))), output_format="png")
    assert caught.value.param == "image"


def test_an_original_too_large_for_the_format_is_refused_before_anything_is_billed() -> None:
    size = (16_384, 2)
    wide, mask = inspected(encoded(Image.new("RGB", size), "PNG")), mask_of(hole((0, 0, 9, 1), size))
    MaskedEdit(wide, mask, output_format="png")
    with pytest.raises(InvalidParameterError, match="16,383") as caught:
        MaskedEdit(wide, mask, output_format="webp")
    assert caught.value.param == "output_format"
