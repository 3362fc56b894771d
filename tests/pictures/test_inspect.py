from __future__ import annotations

import hashlib
import io
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sfumato.errors import ImageError, InvalidImageError, PayloadTooLargeError
from sfumato.pictures.inspect import PASSED_TYPES, ImageLimits, inspect_image

LIMITS = ImageLimits(max_pixels=1_000_000, max_bytes=1_000_000)


def noise(mode: str = "RGB", size: tuple[int, int] = (61, 47)) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, random.Random(7).randbytes(size[0] * size[1] * bands))


def encoded(container: str, image: Image.Image | None = None, **options: Any) -> bytes:
    output = io.BytesIO()
    (image or noise()).save(output, container, **options)
    return output.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def heic(payload: int = 500) -> bytes:
    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    ispe = box(b"ispe", bytes(4) + struct.pack(">II", 40, 30))
    meta = box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", ispe)))
    return box(b"ftyp", b"heic\x00\x00\x00\x00mif1") + meta + box(b"mdat", bytes(payload))


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP"])
def test_what_gemini_takes_passes_unchanged(container: str) -> None:
    data = encoded(container)
    image = inspect_image(data, param="image", limits=LIMITS)
    assert image.data is data
    assert image.mime_type == f"image/{container.lower()}"
    assert (image.width, image.height, image.has_alpha) == (61, 47, False)
    assert image.digest == hashlib.sha256(data).hexdigest()


def test_heic_passes_by_its_signature() -> None:
    image = inspect_image(heic(), param="image", limits=LIMITS)
    assert (image.data, image.mime_type, image.width, image.height) == (heic(), "image/heic", 40, 30)


def test_heic_with_a_phones_trailer_passes() -> None:
    data = heic() + b"SEFH and whatever the phone adds"
    assert inspect_image(data, param="image", limits=LIMITS).data is data


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP"])
def test_sizes_are_as_displayed(container: str) -> None:
    data = encoded(container, exif=exif(6))
    image = inspect_image(data, param="image", limits=LIMITS)
    assert (image.data, image.width, image.height) == (data, 47, 61)


@pytest.mark.parametrize("container", ["GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_other_formats_become_png_with_the_same_pixels(container: str, mode: str) -> None:
    source = encoded(container, noise(mode))
    image = inspect_image(source, param="image", limits=LIMITS)
    assert image.mime_type == "image/png"
    assert image.digest == hashlib.sha256(image.data).hexdigest()
    reencoded = Image.open(io.BytesIO(image.data))
    assert reencoded.tobytes() == Image.open(io.BytesIO(source)).convert(reencoded.mode).tobytes()


def test_reencoding_turns_a_tiff_upright() -> None:
    source = encoded("TIFF", exif=exif(6))
    image = inspect_image(source, param="image", limits=LIMITS)
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(source)))
    assert (image.width, image.height) == (47, 61)
    assert Image.open(io.BytesIO(image.data)).tobytes() == reference.tobytes()


def test_reencoding_takes_the_first_frame_and_keeps_transparency() -> None:
    frames = [Image.new("RGBA", (9, 9), colour) for colour in ((255, 0, 0, 255), (0, 0, 255, 255))]
    frames[0].putpixel((0, 0), (0, 0, 0, 0))
    data = encoded("GIF", frames[0], save_all=True, append_images=frames[1:])
    image = inspect_image(data, param="image", limits=LIMITS)
    assert image.has_alpha
    pixels = Image.open(io.BytesIO(image.data)).convert("RGBA")
    assert pixels.getpixel((5, 5)) == (255, 0, 0, 255)
    assert pixels.getpixel((0, 0)) == (255, 0, 0, 0) or pixels.getchannel("A").getpixel((0, 0)) == 0


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_too_many_pixels_are_refused_with_both_numbers(container: str) -> None:
    limits = ImageLimits(max_pixels=61 * 47 - 1, max_bytes=1_000_000)
    with pytest.raises(
        InvalidImageError, match=r"'images\[1\]' has 61x47 = 2,867 pixels; the limit is 2,866"
    ) as caught:
        inspect_image(encoded(container), param="images[1]", limits=limits)
    assert caught.value.param == "images[1]"
    assert inspect_image(encoded(container), param="image", limits=ImageLimits(61 * 47, 1_000_000)).width == 61


def test_a_bomb_is_refused_from_its_header_and_without_a_warning() -> None:
    """Pillow warns above 89 million pixels and fails at twice that; the limit here speaks first."""
    header = struct.pack("<HHI", 65_000, 65_000, 0)
    with pytest.raises(InvalidImageError, match="4,225,000,000 pixels"):
        inspect_image(b"GIF89a" + header + bytes(60), param="image", limits=LIMITS)


def test_an_operators_higher_limit_is_not_overruled_by_pillow() -> None:
    """Above 89 million pixels Image.open would warn, which fails this suite."""
    data = encoded("GIF", Image.new("1", (10_000, 9_000)))
    image = inspect_image(data, param="image", limits=ImageLimits(100_000_000, 10_000_000))
    assert (image.width, image.height) == (10_000, 9_000)


def test_too_many_bytes_are_a_413_with_both_numbers() -> None:
    data = encoded("PNG")
    with pytest.raises(PayloadTooLargeError, match=f"'mask' has {len(data):,} bytes; the limit is 100") as caught:
        inspect_image(data, param="mask", limits=ImageLimits(1_000_000, 100))
    assert (caught.value.status, caught.value.param) == (413, "mask")


def test_the_byte_limit_holds_for_the_reencoded_picture_too() -> None:
    data = encoded("AVIF", noise(size=(200, 200)), quality=10)
    limits = ImageLimits(1_000_000, len(data))
    with pytest.raises(PayloadTooLargeError, match="re-encoded as PNG"):
        inspect_image(data, param="image", limits=limits)


def test_empty_and_foreign_bytes_are_refused_and_say_what_would_be_right() -> None:
    for data in (b"", b"<svg/>............................", b"%PDF-1.7 ......................"):
        with pytest.raises(InvalidImageError, match=r"'image'.*PNG, JPEG, WebP, HEIC or HEIF") as caught:
            inspect_image(data, param="image", limits=LIMITS)
        assert caught.value.param == "image"


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "HEIC"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.95])
def test_a_cut_file_is_refused(container: str, share: float) -> None:
    thumbnail = encoded("JPEG", noise(size=(16, 16)))
    data = heic() if container == "HEIC" else encoded(container)
    if container == "JPEG":
        # The thumbnail's own end must not be taken for the picture's.
        data = data[:2] + struct.pack(">BBH", 0xFF, 0xE1, len(thumbnail) + 2) + thumbnail + data[2:]
    inspect_image(data, param="image", limits=LIMITS)
    with pytest.raises(InvalidImageError):
        inspect_image(data[: int(len(data) * share)], param="image", limits=LIMITS)


def test_a_flipped_bit_in_a_png_is_found_by_its_checksum() -> None:
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(InvalidImageError, match="damaged"):
        inspect_image(bytes(data), param="image", limits=LIMITS)


@settings(max_examples=150)
@given(st.data())
def test_damaged_bytes_pass_or_raise_ours(data: st.DataObject) -> None:
    container = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "HEIC"]))
    picture = bytearray(heic() if container == "HEIC" else encoded(container, noise(size=(16, 16))))
    for _ in range(data.draw(st.integers(1, 6))):
        picture[data.draw(st.integers(0, min(len(picture), 400) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(picture)))
    try:
        image = inspect_image(bytes(picture[:cut]), param="image", limits=LIMITS)
    except ImageError as error:
        assert error.param == "image"  # noqa: PT017 (either outcome is right)
        return
    assert image.mime_type in PASSED_TYPES
    assert 0 < image.width * image.height <= LIMITS.max_pixels
