from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.upstream.framing import Chunked, Framing, FramingError, Sized

CUTS = st.lists(st.integers(0, 400), max_size=12)
EXTENSIONS = st.sampled_from([b"", b";a=b", b" ;x", b"\t"])


def take(framing: Framing, data: bytes, cuts: list[int]) -> bytes:
    """Feed *data* cut at *cuts* until the body has ended."""
    body = b""
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    for start, stop in pairwise(places):
        if framing.ended:
            framing.excess = True
            break
        body += b"".join(framing.take(data[start:stop]))
    return body


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=60), EXTENSIONS)), CUTS, st.binary(max_size=5))
def test_chunks_are_taken_apart_wherever_they_are_cut(
    chunks: list[tuple[bytes, bytes]], cuts: list[int], excess: bytes
) -> None:
    encoded = b"".join(b"%X%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk, extension in chunks)
    framing = Chunked()
    assert take(framing, encoded + b"0\r\nx-a: b\r\n\r\n" + excess, cuts) == b"".join(chunk for chunk, _ in chunks)
    assert framing.ended
    assert framing.excess == bool(excess)


@given(st.binary(max_size=60), CUTS, st.binary(max_size=5))
def test_a_sized_body_ends_where_its_head_said(body: bytes, cuts: list[int], excess: bytes) -> None:
    framing = Sized(len(body))
    assert take(framing, body + excess, cuts) == body
    assert framing.ended
    assert framing.excess == bool(excess)


@pytest.mark.parametrize("framing", [Sized(10_000), Chunked()])
def test_bytes_that_are_the_bodys_alone_are_not_copied(framing: Framing) -> None:
    if isinstance(framing, Chunked):
        framing.take(b"2710\r\n")
    data = bytes(5_000)
    (part,) = framing.take(data)
    assert part is data


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b"\r\n",
        b"ffffffffffffffff\r\n",
        b"2\r\nabc\r\n",
        b"1;" + b"a" * 9_000,
        b"1;" + b"a" * 9_000 + b"\r\n",
        b"0\r\n" + b"a: b\r\n" * 20_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    for cuts in ([], list(range(0, len(data), 1000)), [1, 2, 3, 4, 5]):
        with pytest.raises(FramingError):
            take(Chunked(), data, cuts)


def test_a_body_that_is_cut_short_has_not_ended() -> None:
    for data in (b"", b"5", b"5\r\nabc", b"5\r\nabcde", b"5\r\nabcde\r\n", b"5\r\nabcde\r\n0\r\n"):
        framing = Chunked()
        take(framing, data, [])
        assert not framing.ended
