from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from sfumato.errors import InvalidParameterError, UpstreamFailureError
from sfumato.images.request import OutputFormat
from sfumato.pictures.transcode import UnreadablePictureError, decode, encode_lossless, transcode
from sfumato.wire.payload import raw_bytes

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(mode: str, size: tuple[int, int] = (61, 47), seed: int = 1) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, random.Random(seed).randbytes(size[0] * size[1] * bands))


def encoded(image: Image.Image, container: str, **options: Any) -> bytes:
    output = io.BytesIO()
    image.save(output, container, **options)
    return output.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png16(colour_type: int, samples: list[int], width: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, 1, 16, colour_type, 0, 0, 0)
    row = b"\x00" + struct.pack(f">{len(samples)}H", *samples)
    pieces = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("source", ["PNG", "WEBP", "JPEG"])
def test_the_bytes_become_the_format_asked(source: str, output_format: OutputFormat) -> None:
    picture = transcode(encoded(noise("RGB"), source), output_format=output_format, compression=80)
    image = opened(raw_bytes(picture))
    assert image.format is not None
    assert image.format.lower() == output_format
    assert picture.mime_type == f"image/{output_format}"
    assert (picture.width, picture.height) == image.size == (61, 47)


@pytest.mark.parametrize(("source", "output_format"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp")])
def test_the_same_format_is_returned_untouched_unless_less_is_asked(source: str, output_format: OutputFormat) -> None:
    raw = encoded(noise("RGB"), source)
    assert transcode(raw, output_format=output_format, compression=None).raw is raw
    assert transcode(raw, output_format=output_format, compression=100).raw is raw
    smaller = transcode(raw, output_format=output_format, compression=10).raw
    assert smaller is not None
    assert smaller is raw if output_format == "png" else len(smaller) < len(raw)


def test_png_keeps_every_pixel_of_a_jpeg() -> None:
    raw = encoded(noise("RGB"), "JPEG", quality=90)
    picture = transcode(raw, output_format="png", compression=None)
    assert opened(raw_bytes(picture)).tobytes() == opened(raw).tobytes()


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_compression_runs_from_small_to_good(output_format: OutputFormat) -> None:
    raw = encoded(noise("RGB"), "PNG")
    pictures = [transcode(raw, output_format=output_format, compression=value) for value in (0, 10, 50, 80, 100)]
    sizes = [len(picture.raw or b"") for picture in pictures]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def test_transparent_pixels_become_white_in_jpeg() -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture = transcode(encoded(image, "PNG"), output_format="jpeg", compression=None)
    assert opened(raw_bytes(picture)).getpixel((32, 32)) == (255, 255, 255)


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_the_colour_profile_stays_and_every_other_record_goes(output_format: OutputFormat) -> None:
    raw = encoded(noise("RGB"), "JPEG", icc_profile=SRGB, exif=exif(1), comment=b"secret", xmp=b"<x>secret</x>")
    picture = transcode(raw, output_format=output_format, compression=None)
    info = opened(raw_bytes(picture)).info
    assert info["icc_profile"] == SRGB
    assert not {"exif", "xmp", "comment", "dpi"} & info.keys()
    assert b"secret" not in raw_bytes(picture)


def test_a_rotated_result_is_turned_upright_and_says_so() -> None:
    image = noise("RGB")
    raw = encoded(image, "PNG", exif=exif(6))
    picture = transcode(raw, output_format="webp", compression=100)
    assert (picture.width, picture.height) == (47, 61)
    assert transcode(raw, output_format="png", compression=None).width == 47


def test_an_unreadable_picture_is_an_upstream_failure() -> None:
    whole = encoded(noise("RGB"), "JPEG")
    for raw in (b"", b"no picture", whole[:40], whole[: len(whole) // 2]):
        with pytest.raises(UpstreamFailureError, match="unreadable picture") as caught:
            transcode(raw, output_format="png", compression=None)
        assert caught.value.__cause__ is None


def test_a_side_that_webp_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="16,383") as caught:
        transcode(encoded(Image.new("RGB", (16_384, 1)), "PNG"), output_format="webp", compression=None)
    assert caught.value.param == "output_format"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_decode_turns_the_picture_as_displayed(container: str, orientation: int) -> None:
    data = encoded(noise("RGB"), container, exif=exif(orientation))
    reference = ImageOps.exif_transpose(opened(data))
    image = decode(data)
    assert (image.size, image.tobytes()) == (reference.size, reference.tobytes())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_decode_makes_rgb_or_rgba_of_every_mode(mode: str) -> None:
    image = noise("RGB").convert(mode) if mode != "RGBA" else noise("RGBA")
    expected_mode = "RGBA" if mode in ("LA", "RGBA") else "RGB"
    decoded = decode(encoded(image, "PNG"))
    assert decoded.mode == expected_mode
    assert decoded.tobytes() == image.convert(expected_mode).tobytes()
    assert decoded.info == {}


def test_decode_reads_palettes_and_colours_that_are_transparent() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert decode(encoded(palette, "PNG", transparency=0)).tobytes() == bytes([10, 20, 30, 0, 40, 50, 60, 255])
    keyed = encoded(Image.new("RGB", (1, 1), (7, 8, 9)), "PNG", transparency=(7, 8, 9))
    assert decode(keyed).getpixel((0, 0)) == (7, 8, 9, 0)


def test_decode_keeps_the_high_byte_of_16_bit_samples() -> None:
    """Pillow's own conversion of 16-bit grey clips at 255: nearly every pixel would be white."""
    levels = [0, 255, 256, 0x8000, 0xFFFF]
    assert decode(png16(0, levels, 5)).getchannel("R").tobytes() == bytes([0, 0, 1, 0x80, 0xFF])
    assert decode(png16(2, levels[:3] * 2, 2)).tobytes() == bytes([0, 0, 1, 0, 0, 1])


def test_decode_drops_a_profile_that_is_not_for_rgb() -> None:
    cmyk_profile = SRGB[:16] + b"CMYK" + SRGB[20:]
    data = encoded(noise("CMYK"), "JPEG", icc_profile=cmyk_profile)
    image = decode(data)
    assert image.info == {}
    assert image.tobytes() == opened(data).convert("RGB").tobytes()


def test_decode_refuses_more_pixels_than_the_first_header_announced() -> None:
    """Limits are checked against the first IHDR; Pillow would obey the second."""
    large = encoded(Image.new("RGB", (300, 300)), "PNG")
    small = encoded(Image.new("RGB", (1, 1)), "PNG")
    with pytest.raises(UnreadablePictureError):
        decode(small[:33] + large[8:])


@settings(max_examples=200)
@given(st.data())
def test_damaged_bytes_decode_or_raise_ours(data: st.DataObject) -> None:
    container = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    picture = bytearray(encoded(noise("RGB", (16, 16)), container))
    for _ in range(data.draw(st.integers(1, 6))):
        picture[data.draw(st.integers(0, min(len(picture), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(picture))
    except UnreadablePictureError:
        return
    assert image.mode in ("RGB", "RGBA")


@pytest.mark.parametrize("output_format", ["png", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_lossless_encoding_keeps_colours_under_alpha_0(mode: str, output_format: OutputFormat) -> None:
    image = noise(mode)
    if mode == "RGBA":
        image.paste((9, 8, 7, 0), (0, 0, 30, 30))
    assert opened(encode_lossless(image, output_format)).tobytes() == image.tobytes()
