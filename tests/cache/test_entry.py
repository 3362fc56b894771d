from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import tracemalloc
import zlib

import msgspec
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.cache.entry import (
    DamagedEntryError,
    EntryHeader,
    check_picture,
    dump,
    header_end,
    load_header,
    open_entry,
)
from sfumato.images.fingerprint import prompt_digest
from sfumato.images.request import Picture
from sfumato.wire.payload import chunks, join
from tests.cache.contract import sample_image, sample_request


def dumped(prompt: str = "a lighthouse", raw: bytes = b"\xff\xd8 a picture", **wish: object) -> bytes:
    return join(dump(sample_image(raw), sample_request(prompt, **wish), key="img:key", ttl_seconds=60.0))


def load(data: bytes) -> tuple[EntryHeader, bytes]:
    header, raw = open_entry(data)
    check_picture(header, raw)
    return header, join((raw,))


def framed(header: bytes, raw: bytes = b"") -> bytes:
    return b"sfmt" + len(header).to_bytes(4, "big") + zlib.crc32(header).to_bytes(4, "big") + header + raw


def test_a_picture_and_its_facts_come_back() -> None:
    image, request = sample_image(b"\x89PNG pixels"), sample_request(quality="hd", style="vivid", tenant="team-a")
    header, raw = load(join(dump(image, request, key="img:key", ttl_seconds=60.0)))
    assert raw == b"\x89PNG pixels"
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


def test_base64_is_decoded_as_it_is_stored_and_never_held_whole() -> None:
    raw = os.urandom(2_000_000)
    image = sample_image(raw)
    stored = hashlib.sha256()
    tracemalloc.start()
    try:
        _, picture = dump(image, sample_request(), key="k", ttl_seconds=1.0)
        for chunk in chunks((picture,)):
            stored.update(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(picture), stored.digest()) == (len(raw), hashlib.sha256(raw).digest())
    # A few steps of 256 KB; joined or decoded whole it would be 2 MB and more.
    assert peak < 1_200_000


@given(st.data())
def test_a_picture_cut_anywhere_is_the_same_entry(data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=1, max_size=100))
    text = pybase64.b64encode(raw)
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=6))})
    picture = dataclasses.replace(
        sample_image().picture, encoded=tuple(memoryview(text)[a:b] for a, b in itertools.pairwise(cuts))
    )
    image = dataclasses.replace(sample_image(), picture=picture)
    assert load(join(dump(image, sample_request(), key="k", ttl_seconds=1.0)))[1] == raw


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
    assert load(framed(msgspec.json.encode(header), raw))[0] == header
    with pytest.raises(DamagedEntryError, match="version"):
        load(framed(older, raw))


def test_the_beginning_tells_how_much_of_it_is_the_header() -> None:
    entry = dumped()
    end = header_end(entry[:12])
    assert load_header(entry[:end]) == load_header(entry)
    with pytest.raises(DamagedEntryError):
        load_header(entry[: end - 1])
    assert header_end(entry[:11]) == header_end(b"") == header_end(b"x" + entry[1:]) == 0
