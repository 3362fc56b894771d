from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidImageError
from sfumato.images.request import Picture
from sfumato.wire.payload import (
    CHUNK_BYTES,
    Piece,
    base64_pieces,
    chunks,
    decode_base64,
    decode_head,
    encode_base64,
    picture_bytes,
    raw_bytes,
    size_of,
)


def piece(data: bytes, *, view: bool) -> Piece:
    return memoryview(data) if view else data


pieces = st.lists(st.builds(piece, st.binary(max_size=40), view=st.booleans()), max_size=8)


@given(pieces, st.integers(1, 50))
@settings(deadline=None, max_examples=300)
def test_chunks_are_the_pieces_in_order_and_bounded(parts: list[Piece], limit: int) -> None:
    made = list(chunks(parts, limit))
    assert b"".join(made) == b"".join(bytes(part) for part in parts)
    assert all(0 < len(chunk) <= limit for chunk in made)
    assert all(type(chunk) is bytes for chunk in made)
    assert size_of(parts) == sum(map(len, made))
    # Small pieces are gathered: no two neighbours would have fitted into one half-full chunk each.
    assert all(len(one) + len(two) > limit for one, two in itertools.pairwise(made))


def test_big_pieces_leave_in_chunks_of_the_usual_size() -> None:
    made = list(chunks((b"{", b"x" * (2 * CHUNK_BYTES + 5), b"}")))
    assert [len(chunk) for chunk in made] == [1, CHUNK_BYTES, CHUNK_BYTES, 6]
    assert list(chunks(())) == []


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_base64_there_and_back(data: bytes) -> None:
    text = encode_base64(data)
    assert text == base64.b64encode(data)
    for form in (text, text.decode(), memoryview(text)):
        assert decode_base64(form, param="image") == data


@pytest.mark.parametrize("text", ["A", "AAA", "AA==A", "A A=", "AAAA\n", "AA-_", "é===", "\ud800", b"\xff\xff\xff\xff"])
def test_anything_but_strict_base64_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidImageError, match=r"'image\[1\]' is not valid base64") as caught:
        decode_base64(text, param="image[1]")
    assert caught.value.param == "image[1]"


@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(1, 400), max_size=5), st.integers(0, 320))
@settings(deadline=None, max_examples=200)
def test_the_head_is_a_prefix_of_at_most_so_many_bytes(data: bytes, cuts: list[int], wanted: int) -> None:
    text = base64.b64encode(data)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [memoryview(text)[start:end] for start, end in itertools.pairwise(edges)]
    head = decode_head(parts, wanted)
    assert data.startswith(head)
    assert len(head) <= wanted
    assert len(head) >= min(len(data), wanted // 3 * 3)


@pytest.mark.parametrize("parts", [(b"!!!!",), (b"AA", b"\n\nAA"), (b"data",) * 0])
def test_the_head_of_what_is_no_base64_is_empty(parts: tuple[bytes, ...]) -> None:
    assert decode_head(parts, 48) == b""


def picture(**form: object) -> Picture:
    return Picture(mime_type="image/png", width=1, height=1, **form)  # type: ignore[arg-type]  # one of two forms


def test_a_picture_s_bytes_and_base64() -> None:
    raw, encoded = picture(raw=b"picture"), picture(encoded=(b"cGlj", memoryview(b"dHVyZQ==")))
    one = picture(encoded=(b"cGljdHVyZQ==",))
    assert raw_bytes(raw) == raw_bytes(encoded) == raw_bytes(one) == b"picture"
    assert base64_pieces(raw) == (b"cGljdHVyZQ==",)
    assert base64_pieces(encoded) is encoded.encoded
    assert picture_bytes(raw) == 7
    assert picture_bytes(encoded) == 9
    assert base64_pieces(picture(raw=b"")) == (b"",)


def test_damaged_base64_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"."):
        raw_bytes(picture(encoded=(b"cGlj!",)))
