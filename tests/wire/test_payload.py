from __future__ import annotations

import base64
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidImageError
from sfumato.images.request import Picture
from sfumato.wire.payload import (
    CHUNK_BYTES,
    Base64Text,
    DecodedText,
    Part,
    Piece,
    base64_pieces,
    chunks,
    decode_base64,
    decode_head,
    encode_base64,
    join,
    picture_bytes,
    raw_bytes,
    size_of,
    spans,
)


class Disk:
    """A blob that is in memory when told so, and counts what is read of it."""

    def __init__(self, data: bytes, *, ready: bool = True) -> None:
        self.data = data
        self.ready = ready
        self.largest = 0

    def __len__(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= len(self.data)
        self.largest = max(self.largest, stop - start)
        return self.data[start:stop]

    def read_now(self, start: int, stop: int) -> bytes | None:
        return self.read(start, stop) if self.ready else None


class PlainBlob:
    """A blob that cannot tell whether it is in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]


FORMS: tuple[Callable[[bytes], Piece], ...] = (
    bytes,
    memoryview,
    Disk,
    PlainBlob,
    lambda data: Part(b"[" + data + b"]", 1, 1 + len(data)),
)


def piece(data: bytes, form: Callable[[bytes], Piece]) -> Piece:
    return form(data)


def whole(part: Piece) -> bytes:
    return bytes(part) if isinstance(part, bytes | memoryview) else part.read(0, len(part))


pieces = st.lists(st.builds(piece, st.binary(max_size=40), form=st.sampled_from(FORMS)), max_size=8)


@given(pieces, st.integers(1, 50))
@settings(max_examples=300)
def test_chunks_are_the_pieces_in_order_and_bounded(parts: list[Piece], limit: int) -> None:
    made = list(chunks(parts, limit))
    assert b"".join(made) == join(parts) == b"".join(whole(part) for part in parts)
    assert [span.read_now() for span in spans(parts, limit)] == made
    assert [len(span) for span in spans(parts, limit)] == list(map(len, made))
    assert all(0 < len(chunk) <= limit for chunk in made)
    assert all(type(chunk) is bytes for chunk in made)
    assert size_of(parts) == sum(map(len, made))
    # Small pieces are gathered: no two neighbours would have fitted into one half-full chunk each.
    assert all(len(one) + len(two) > limit for one, two in itertools.pairwise(made))


def test_big_pieces_leave_in_chunks_of_the_usual_size() -> None:
    made = list(chunks((b"{", b"x" * (2 * CHUNK_BYTES + 5), b"}")))
    assert [len(chunk) for chunk in made] == [1, CHUNK_BYTES, CHUNK_BYTES, 6]
    assert list(chunks(())) == []


def test_a_span_that_would_wait_says_so_and_is_read_all_the_same() -> None:
    parts = (b"{", Part(Disk(b"-picture-", ready=False), 1, 8), b"}")
    (span,) = spans(parts)
    assert span.read_now() is None
    assert span.read() == b"{picture}"
    (alone,) = spans((Base64Text(Disk(b"picture", ready=False)),))
    assert alone.read_now() is None
    assert alone.read() == b"cGljdHVyZQ=="


@given(st.binary(max_size=60), st.data())
@settings(max_examples=200)
def test_raw_bytes_read_as_base64(data: bytes, draw: st.DataObject) -> None:
    text = Base64Text(piece(data, draw.draw(st.sampled_from(FORMS))))
    expected = base64.b64encode(data)
    start = draw.draw(st.integers(0, len(expected)))
    stop = draw.draw(st.integers(start, len(expected)))
    assert len(text) == len(expected)
    assert text.read(start, stop) == text.read_now(start, stop) == expected[start:stop]


@given(st.binary(max_size=60), st.data())
@settings(max_examples=300)
def test_base64_cut_anywhere_read_as_raw_bytes(data: bytes, draw: st.DataObject) -> None:
    encoded = base64.b64encode(data)
    cuts = sorted({0, len(encoded), *draw.draw(st.lists(st.integers(0, len(encoded)), max_size=8))})
    forms = st.sampled_from(FORMS)
    parts = [piece(encoded[start:stop], draw.draw(forms)) for start, stop in itertools.pairwise(cuts)]
    raw = DecodedText(parts)
    start = draw.draw(st.integers(0, len(data)))
    stop = draw.draw(st.integers(start, len(data)))
    assert len(raw) == len(data)
    assert raw.read(start, stop) == data[start:stop]
    assert raw_bytes(picture(encoded=tuple(parts))) == data
    assert data.startswith(decode_head(parts, 48))


def test_a_blob_is_read_in_chunks() -> None:
    disk = Disk(bytes(1_000_000))
    assert sum(map(len, chunks((Base64Text(disk),)))) == 1_333_336
    assert disk.largest == CHUNK_BYTES // 4 * 3
    disk.largest = 0
    assert raw_bytes(picture(encoded=(Base64Text(disk),))) == disk.data
    assert disk.largest <= CHUNK_BYTES


@pytest.mark.parametrize(
    "parts", [(b"AA==", b"AAAA"), (b"AAA=AAAA",), (b"AAA",), (b"A===",), (b"AAAA", b"AA\n="), (b"====",)]
)
def test_padding_and_letters_where_they_may_not_be_are_found(parts: tuple[bytes, ...]) -> None:
    for step in (3, 6, 300):
        with pytest.raises(ValueError, match=r"."):
            list(chunks((DecodedText(parts),), step))


@given(st.binary(max_size=200))
@settings(max_examples=100)
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
@settings(max_examples=200)
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
    assert join(base64_pieces(raw)) == b"cGljdHVyZQ=="
    assert base64_pieces(encoded) is encoded.encoded
    assert picture_bytes(raw) == 7
    assert picture_bytes(encoded) == 9
    assert size_of(base64_pieces(picture(raw=b""))) == 0


def test_damaged_base64_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"."):
        raw_bytes(picture(encoded=(b"cGlj!",)))
