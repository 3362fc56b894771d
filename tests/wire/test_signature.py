from __future__ import annotations

import io
import struct
import time
import zlib
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.wire.signature import Signature, Truncated, read_signature


def encoded(container: str, mode: str = "RGB", size: tuple[int, int] = (37, 21), **options: Any) -> bytes:
    output = io.BytesIO()
    Image.new(mode, size).save(output, container, **options)
    return output.getvalue()


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II" if order == "<" else b"MM"
    return b"Exif\x00\x00" + mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    extra = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return jpeg[:2] + extra + jpeg[2:]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    return png[:33] + png_chunk(kind, body) + png[33:]


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def heif(
    *properties: bytes, major: bytes = b"heic", compatible: tuple[bytes, ...] = (b"mif1", b"heic"), before: bytes = b""
) -> bytes:
    iprp = box(b"iprp", box(b"ipco", *properties), box(b"ipma", bytes(8)))
    hdlr = box(b"hdlr", bytes(8), b"pict", bytes(13))
    return (
        box(b"ftyp", major, bytes(4), *compatible)
        + before
        + box(b"meta", bytes(4), hdlr, iprp)
        + box(b"mdat", bytes(64))
    )


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", bytes(4), struct.pack(">II", width, height))


@cache
def samples() -> dict[str, bytes]:
    return {
        "png": encoded("PNG"),
        "png rgba": encoded("PNG", "RGBA", exif=exif(6)[6:]),
        "jpeg": encoded("JPEG", exif=exif(3)),
        "jpeg progressive": encoded("JPEG", progressive=True),
        "webp": encoded("WEBP"),
        "webp lossless": encoded("WEBP", "RGBA", lossless=True),
        "webp extended": encoded("WEBP", exif=exif(6)),
        "gif": encoded("GIF", "P"),
        "bmp": encoded("BMP"),
        "tiff": encoded("TIFF"),
        "avif": encoded("AVIF"),
        "heic": heif(ispe(512, 512), ispe(4032, 3024), box(b"irot", b"\x03")),
    }


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("size", [(37, 21), (1, 1), (1025, 3)])
def test_it_reads_what_pillow_wrote(container: str, size: tuple[int, int]) -> None:
    signature = read_signature(encoded(container, size=size))
    assert signature == Signature(f"image/{container.lower()}", *size)


@pytest.mark.parametrize(
    ("container", "mode", "options", "has_alpha"),
    [
        ("PNG", "RGBA", {}, True),
        ("PNG", "LA", {}, True),
        ("PNG", "P", {"transparency": 0}, True),
        ("PNG", "RGB", {"transparency": (0, 0, 0)}, True),
        ("PNG", "P", {}, False),
        ("PNG", "L", {}, False),
        ("PNG", "I;16", {}, False),
        ("JPEG", "L", {}, False),
        ("JPEG", "CMYK", {}, False),
    ],
)
def test_it_tells_alpha(container: str, mode: str, options: dict[str, Any], has_alpha: bool) -> None:  # noqa: FBT001
    signature = read_signature(encoded(container, mode, **options))
    assert isinstance(signature, Signature)
    assert signature.has_alpha is has_alpha


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_it_tells_alpha_of_webp_as_the_decoder_does(lossless: bool, alpha: int) -> None:  # noqa: FBT001
    output = io.BytesIO()
    Image.new("RGBA", (9, 7), (1, 2, 3, alpha)).save(output, "WEBP", lossless=lossless)
    signature = read_signature(output.getvalue())
    assert isinstance(signature, Signature)
    assert signature.has_alpha is (Image.open(output).mode == "RGBA")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP"])
def test_it_reads_orientation_and_swaps_the_displayed_size(container: str, orientation: int) -> None:
    signature = read_signature(encoded(container, exif=exif(orientation)))
    assert isinstance(signature, Signature)
    assert signature.orientation == orientation
    assert signature.complete
    assert (signature.width, signature.height) == (37, 21)
    assert signature.displayed_size == ((21, 37) if orientation > 4 else (37, 21))


def test_it_reads_big_endian_exif_and_ignores_nonsense() -> None:
    plain = encoded("JPEG")
    assert read_signature(with_segments(plain, (0xE1, exif(8, ">")))) == Signature("image/jpeg", 37, 21, orientation=8)
    for body in (exif(9), exif(0), exif(6)[:20], b"Exif\x00\x00", b"Exif\x00\x00XX" + exif(6)[8:], b"http://ns.adobe"):
        assert read_signature(with_segments(plain, (0xE1, body))) == Signature("image/jpeg", 37, 21), body


def test_the_first_exif_of_a_jpeg_counts_and_tables_are_no_frame() -> None:
    tables = ((0xC4, bytes(40)), (0xCC, bytes(40)), (0xC8, bytes(40)))
    data = with_segments(encoded("JPEG"), *tables, (0xE1, exif(6)), (0xE1, exif(3)))
    assert read_signature(data) == Signature("image/jpeg", 37, 21, orientation=6)


def test_webp_chunks_of_odd_length_are_padded() -> None:
    whole = samples()["webp extended"]
    at = whole.index(b"EXIF")
    padded = whole[:at] + b"JUNK" + struct.pack("<I", 3) + bytes(4) + whole[at:]
    assert read_signature(padded) == Signature("image/webp", 37, 21, orientation=6)


def test_a_bitmap_with_rows_from_the_top_has_a_positive_height() -> None:
    data = encoded("BMP")
    assert read_signature(data[:22] + struct.pack("<i", -21) + data[26:]) == Signature("image/bmp", 37, 21)


def test_a_webp_head_without_its_announced_exif_is_incomplete() -> None:
    whole = samples()["webp extended"]
    assert read_signature(whole) == Signature("image/webp", 37, 21, orientation=6)
    assert read_signature(whole[:-10]) == Signature("image/webp", 37, 21, complete=False)
    assert read_signature(whole[:30]) == Signature("image/webp", 37, 21, complete=False)


def test_following_needed_bytes_reaches_the_size_behind_large_c2pa_segments() -> None:
    """Gemini signs its pictures: tens of KB of APP11 stand before the frame header."""
    data = with_segments(encoded("JPEG"), *[(0xEB, bytes(65_000))] * 4)
    needed, rounds = 64, 0
    while isinstance(answer := read_signature(memoryview(data)[:needed]), Truncated):
        assert answer.mime_type == "image/jpeg"
        assert answer.needed_bytes > needed
        needed, rounds = answer.needed_bytes, rounds + 1
    assert answer == Signature("image/jpeg", 37, 21)
    assert needed < len(data)
    assert rounds < 20


def test_a_png_with_a_large_record_before_its_pixels_needs_more() -> None:
    data = with_chunk(encoded("PNG"), b"caBX", bytes(50_000))
    assert read_signature(data[:1000]) == Truncated(33 + 12 + 50_000 + 8, "image/png")
    assert read_signature(data) == Signature("image/png", 37, 21)


def test_heif_takes_the_largest_size_not_a_tile_or_thumbnail() -> None:
    properties = [ispe(512, 512), ispe(4032, 3024), ispe(320, 240)]
    assert read_signature(heif(*properties)) == Signature("image/heic", 4032, 3024)
    alpha = box(b"auxC", bytes(4), b"urn:mpeg:hevc:2015:auxid:1\x00")
    assert read_signature(heif(*properties, alpha)) == Signature("image/heic", 4032, 3024, has_alpha=True)


@pytest.mark.parametrize(("angle", "orientation"), [(0, 1), (1, 8), (2, 3), (3, 6)])
def test_heif_rotation_counts_as_orientation(angle: int, orientation: int) -> None:
    """HEIF turns anticlockwise in steps of 90 degrees; EXIF's 6 means "turn clockwise to display"."""
    data = heif(ispe(40, 30), box(b"irot", bytes([angle])))
    assert read_signature(data) == Signature("image/heic", 40, 30, orientation=orientation)


@pytest.mark.parametrize(
    ("major", "compatible", "mime_type"),
    [
        *((brand, (), "image/heic") for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs")),
        (b"mif1", (b"mif1", b"heic"), "image/heic"),
        (b"mif1", (b"mif1",), "image/heif"),
        (b"msf1", (), "image/heif"),
        (b"avif", (b"mif1",), "image/avif"),
        (b"mif1", (b"avif", b"miaf"), "image/avif"),
    ],
)
def test_heif_brands_decide_the_type(major: bytes, compatible: tuple[bytes, ...], mime_type: str) -> None:
    data = heif(ispe(40, 30), major=major, compatible=compatible)
    assert read_signature(data) == Signature(mime_type, 40, 30)


def test_heif_whose_meta_stands_behind_other_boxes() -> None:
    data = heif(ispe(40, 30), before=box(b"free", bytes(9000)))
    assert read_signature(data) == Signature("image/heic", 40, 30)
    head = read_signature(data[:100])
    assert isinstance(head, Truncated)
    assert head.needed_bytes > 9000


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is text and no picture",
        b"%PDF-1.7 and so on and on and on",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"RIFF\x24\x00\x00\x00WAVEfmt and more of it",
        b"BM is how this sentence happens to start, but no bitmap",
        box(b"ftyp", b"isom", bytes(4), b"mp42") + box(b"moov", bytes(40)),
        b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x04CgBI" + bytes(40),
        b"\xff\xd8\xff\xd9" + bytes(40),
        b"\xff\xd8\xff\xda" + bytes(40),
        heif(),
        heif(ispe(0, 30)),
        b"GIF89a" + bytes(20),
        b"II+\x00" + bytes(30),
    ],
)
def test_what_is_no_picture_is_none(data: bytes) -> None:
    assert read_signature(data) is None


@pytest.mark.parametrize("name", sorted(samples()))
def test_every_truncation_of_a_picture_is_truncated_or_right(name: str) -> None:
    whole = samples()[name]
    expected = read_signature(whole)
    assert isinstance(expected, Signature)
    for end in range(len(whole)):
        answer = read_signature(whole[:end])
        if isinstance(answer, Truncated):
            assert answer.needed_bytes > end
        else:
            assert isinstance(answer, Signature), end
            assert (answer.mime_type, answer.width) == (expected.mime_type, expected.width)
            assert answer == expected or not answer.complete


MAGICS = [data[:16] for data in samples().values()] + [b""]


@settings(max_examples=300)
@given(st.sampled_from(MAGICS), st.binary(max_size=400))
def test_random_bytes_are_judged_without_a_crash(magic: bytes, noise: bytes) -> None:
    answer = read_signature(magic + noise)
    assert answer is None or isinstance(answer, (Signature, Truncated))
    if isinstance(answer, Truncated):
        assert answer.needed_bytes > len(magic + noise)


@settings(max_examples=300)
@given(st.data())
def test_flipped_bytes_are_judged_without_a_crash(data: st.DataObject) -> None:
    picture = bytearray(data.draw(st.sampled_from(sorted(samples().values()))))
    for _ in range(data.draw(st.integers(1, 8))):
        picture[data.draw(st.integers(0, min(len(picture), 300) - 1))] = data.draw(st.integers(0, 255))
    answer = read_signature(bytes(picture))
    if isinstance(answer, Signature):
        assert answer.width > 0
        assert answer.height > 0
        assert answer.orientation in range(1, 9)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 5_000_000,
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1_000_000,
        encoded("PNG")[:33] + png_chunk(b"teXt", b"") * 500_000,
        b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x08" + bytes(9) + b"JUNK\x00\x00\x00\x00" * 500_000,
        box(b"ftyp", b"heic", bytes(4)) + box(b"free") * 500_000,
        heif(*[box(b"free")] * 500_000),
        b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(1_000_000),
    ],
    ids=["fill", "empty segments", "empty chunks", "riff chunks", "boxes", "properties", "tags"],
)
def test_hostile_files_cost_little(data: bytes) -> None:
    started = time.process_time()
    read_signature(data)
    assert time.process_time() - started < 0.25
