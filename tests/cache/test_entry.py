from __future__ import annotations

import dataclasses
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.cache.entry import DamagedEntryError, dump, load
from sfumato.images.fingerprint import prompt_digest
from sfumato.images.request import Picture
from tests.cache.contract import sample_image, sample_request


def dumped(prompt: str = "a lighthouse", raw: bytes = b"\xff\xd8 a picture", **wish: object) -> bytes:
    return b"".join(dump(sample_image(raw), sample_request(prompt, **wish), key="img:key", ttl_seconds=60.0))


def framed(header: bytes, raw: bytes = b"") -> bytes:
    return b"sfmt" + len(header).to_bytes(4, "big") + zlib.crc32(header).to_bytes(4, "big") + header + raw


def test_a_picture_and_its_facts_come_back() -> None:
    image, request = sample_image(b"\x89PNG pixels"), sample_request(quality="hd", style="vivid", tenant="team-a")
    header, raw = load(b"".join(dump(image, request, key="img:key", ttl_seconds=60.0)))
    assert bytes(raw) == b"\x89PNG pixels"
    assert (header.key, header.created, header.ttl_seconds) == ("img:key", image.created, 60.0)
    assert (header.usage, header.price_usd) == (image.usage, image.price_usd)
    assert (header.mime_type, header.width, header.height) == ("image/jpeg", 5504, 3072)
    assert (header.model, header.variant) == ("gemini-3-pro-image", "gemini-3-pro-image-4k-16x9")
    assert (header.operation, header.aspect_ratio, header.tier) == ("generation", "16:9", "4K")
    assert (header.quality, header.style, header.tenant) == ("hd", "vivid", "team-a")
    assert (header.prompt_sha256, header.size_bytes) == (prompt_digest("a lighthouse"), 11)


def test_raw_bytes_are_a_piece_of_their_own_and_not_copied() -> None:
    raw = b"pixels" * 1000
    picture = Picture(raw=raw, mime_type="image/png", width=1, height=1)
    pieces = dump(dataclasses.replace(sample_image(), picture=picture), sample_request(), key="k", ttl_seconds=1.0)
    assert pieces[1] is raw


def test_the_picture_is_a_view_of_the_stored_bytes() -> None:
    data = dumped()
    assert load(data)[1].obj is data


def test_no_text_of_the_client_is_stored() -> None:
    data = dumped("canary-prompt on a beach", style="canary-style, brush strokes", user="canary-user")
    assert b"canary" not in data
    assert load(data)[0].style == "custom"


def test_damaged_base64_is_not_stored() -> None:
    picture = Picture(encoded=(b"not base64!",), mime_type="image/png", width=1, height=1)
    with pytest.raises(ValueError, match="base64"):
        dump(dataclasses.replace(sample_image(), picture=picture), sample_request(), key="k", ttl_seconds=1.0)


@given(st.data())
def test_any_flipped_byte_is_found(data: st.DataObject) -> None:
    entry = bytearray(dumped())
    place = data.draw(st.integers(0, len(entry) - 1))
    entry[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedEntryError):
        load(bytes(entry))


@given(st.integers(0, 10_000))
def test_any_cut_is_found(length: int) -> None:
    entry = dumped()
    with pytest.raises(DamagedEntryError):
        load(entry[: length % len(entry)])


@given(st.binary())
def test_foreign_bytes_are_no_entry(data: bytes) -> None:
    with pytest.raises(DamagedEntryError):
        load(data)


@pytest.mark.parametrize("header", [b"", b"{}", b"[1]", b'{"schema": 1}', b'{"schema": "\xff"}', b"\x80\x04."])
def test_a_header_of_another_kind_is_damage(header: bytes) -> None:
    with pytest.raises(DamagedEntryError):
        load(framed(header))


def test_another_version_is_not_read() -> None:
    header, raw = load(dumped())
    older = msgspec.json.encode(msgspec.structs.replace(header, schema=0))
    assert load(framed(msgspec.json.encode(header), bytes(raw)))[0] == header
    with pytest.raises(DamagedEntryError, match="version"):
        load(framed(older, bytes(raw)))
