from __future__ import annotations

import base64
import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfumato.wire.lifter import LONG_BYTES, Lifted, Lifter, LiftError, lift
from sfumato.wire.payload import chunks

LONG = "A" * (LONG_BYTES + 1)
MARK = "\x7f"


def lifted(parts: list[bytes]) -> Lifted:
    lifter = Lifter()
    for chunk in parts:
        lifter.feed(chunk)
    return lifter.finish()


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:stop] for start, stop in pairwise(edges)]


def joined(reply: Lifted) -> bytes:
    """Put the strings back into the skeleton, byte for byte."""
    body, rest = b"", reply.skeleton
    for number, string in enumerate(reply.strings):
        before, _, rest = rest.partition(b'"\x7f%d"' % number)
        body += before + b'"%b"' % b"".join(chunks(string.pieces))
    return body + rest


def decoded(value: Any, reply: Lifted) -> Any:
    """Return a decoded skeleton with what its stand-ins stand for."""
    match value:
        case str():
            return reply.text(value)
        case list():
            return [decoded(item, reply) for item in value]
        case dict():
            return {decoded(key, reply): decoded(item, reply) for key, item in value.items()}
    return value


REJECTED = object()


def read(reply: Lifted) -> Any:
    try:
        return decoded(msgspec.json.decode(reply.skeleton), reply)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return REJECTED


def expected(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return REJECTED


strings = st.one_of(
    st.text(max_size=12),
    st.sampled_from([LONG, LONG[1:], MARK, f"{MARK}0", "\\", '"', "\\" * 3, '\\"', "é€𝄞", "/", "="]),
    st.builds(lambda text, end: text * (LONG_BYTES // len(text) + 1) + end, st.text(min_size=1, max_size=5), st.text()),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), strings),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=8,
)
documents = st.builds(
    lambda value, ascii_only, spaced: json.dumps(
        value, ensure_ascii=ascii_only, indent=1 if spaced else None, separators=None if spaced else (",", ":")
    ).encode("utf-8", "surrogatepass"),
    values,
    st.booleans(),
    st.booleans(),
)
damages = st.tuples(st.integers(0), st.sampled_from([b"", b'"', b"\\", b"\x00", b"\xff", b"{", b"\\u12", b"\x7f"]))
places = st.lists(st.integers(0, 1 << 20), max_size=12)


@given(documents, places)
@settings(max_examples=400)
@example(json.dumps({"a": LONG}).encode(), [0, 6, 7, 8, 9])
@example(b'["%b\\"x"]' % LONG.encode(), [LONG_BYTES + 4])
def test_every_cut_gives_what_msgspec_reads(body: bytes, where: list[int]) -> None:
    reply = lifted(cut(body, where))
    assert joined(reply) == body
    assert read(reply) == expected(body)
    assert reply.skeleton == lift(body).skeleton


@given(documents, damages, places)
@settings(max_examples=400)
def test_what_msgspec_rejects_is_rejected(body: bytes, damage: tuple[int, bytes], where: list[int]) -> None:
    place = damage[0] % (len(body) + 1)
    body = body[:place] + damage[1] + body[place + (damage[0] % 2) :]
    reply = lifted(cut(body, where))
    assert read(reply) == expected(body)


@given(documents, st.integers(0), places)
@settings(max_examples=200)
def test_a_body_that_ends_too_early_is_rejected(body: bytes, end: int, where: list[int]) -> None:
    body = body[: end % (len(body) + 1)]
    assert read(lifted(cut(body, where))) == expected(body)


@given(st.binary(max_size=200), places)
@settings(max_examples=300)
def test_garbage_is_taken_apart_too(body: bytes, where: list[int]) -> None:
    assert read(lifted(cut(body, where))) == expected(body)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_every_byte_can_be_a_border(step: int) -> None:
    text = 'é"\\/\\\\' + "A" * (LONG_BYTES + 10) + "€\\"
    body = json.dumps({"a": [text, text[:9]], "data": LONG, "b": "\\\\", "n": -1.5e3}, ensure_ascii=False).encode()
    body = body.replace(b"AAAA", b"A\\/A\\u003d")
    reply = lifted([body[start : start + step] for start in range(0, len(body), step)])
    assert joined(reply) == body
    assert read(reply) == expected(body) == json.loads(body)
    assert len(reply.strings) == 2


def test_long_strings_leave_and_short_ones_stay() -> None:
    reply = lift(json.dumps({"a": LONG, "b": LONG[1:], "c": "\\n", "d": ""}).encode())
    assert len(reply.strings) == 1
    assert msgspec.json.decode(reply.skeleton) == {"a": f"{MARK}0", "b": LONG[1:], "c": "\\n", "d": ""}


@pytest.mark.parametrize("text", [MARK, f"{MARK}0", f"{MARK}7", f"{MARK}x"])
@pytest.mark.parametrize("spelled", [b"\x7f", b"\\u007f", b"\\u007F"])
def test_a_string_that_looks_like_a_stand_in_is_itself(text: str, spelled: bytes) -> None:
    body = json.dumps([text, LONG]).encode().replace(b"\x7f", spelled)
    reply = lift(body)
    first, second = msgspec.json.decode(reply.skeleton)
    assert reply.text(first) == text
    assert reply.text(second) == LONG


def test_chunks_inside_a_string_are_kept_as_the_objects_they_are() -> None:
    inner = [b"A" * 100_000, b"B" * 70_000]
    (string,) = lifted([b'{"data":"', *inner, b'"}']).strings
    assert [piece is chunk for piece, chunk in zip(string.pieces, inner, strict=True)] == [True, True]
    assert not string.escaped


def test_the_ends_of_a_string_are_views_of_their_chunks() -> None:
    first, last = b'{"data":"' + b"A" * 50_000, b"B" * 50_000 + b'"}'
    (string,) = lifted([first, last]).strings
    assert [piece.obj for piece in string.pieces if isinstance(piece, memoryview)] == [first, last]


def test_a_trickle_is_gathered() -> None:
    lifter = Lifter()
    lifter.feed(b'{"data":"')
    for _ in range(2000):
        lifter.feed(b"A" * 100)
    lifter.feed(b'"}')
    (string,) = lifter.finish().strings
    assert sum(map(len, string.pieces)) == 200_000
    assert len(string.pieces) <= 4


def test_large_parts_can_be_taken_and_replaced_string_by_string() -> None:
    lifter = Lifter()
    lifter.feed(b'["')
    for letter in (b"A", b"B"):
        parts = [letter * 100_000, letter * 50_000, letter * 40_000]
        for part in parts[:2]:
            lifter.feed(part)
        assert lifter.movable_bytes == 150_000
        assert lifter.take() == parts[:2]
        lifter.give_back((b"away",))
        lifter.feed(parts[2])
        assert lifter.movable_bytes == 40_000
        assert lifter.take() == parts[2:]
        lifter.give_back(parts[2:])
        assert (lifter.movable_bytes, lifter.take()) == (0, [])
        lifter.feed(b"end")
        lifter.feed(b'","')
        assert lifter.movable_bytes == 0
    lifter.feed(b'"]')
    first, second = lifter.finish().strings
    assert first.pieces == (b"away", b"A" * 40_000, b"end")
    assert second.pieces == (b"away", b"B" * 40_000, b"end")


def test_escapes_are_undone_when_somebody_asks() -> None:
    body = b'["%b\\/%b\\u003d"]' % (LONG.encode(), LONG.encode())
    reply = lift(body)
    (value,) = msgspec.json.decode(reply.skeleton)
    assert reply.strings[0].escaped
    assert reply.base64(value) == (f"{LONG}/{LONG}=".encode(),)
    assert reply.text(value) == f"{LONG}/{LONG}="


@pytest.mark.parametrize("length", [1, 4, 7, LONG_BYTES, LONG_BYTES + 1, 70_001])
@pytest.mark.parametrize("place", [0, 1, 2, -3, -2, -1])
@pytest.mark.parametrize("stray", [b"\n", b"\x00", b" ", b"-", b"\xc3\xa9", b'\\"', b"\\n", b"\\u0022"])
@pytest.mark.parametrize("step", [5_000, 100_000])
def test_what_would_break_a_json_string_is_no_base64(length: int, place: int, stray: bytes, step: int) -> None:
    text = b"A" * length
    reply = lifted(cut(b'["%b","%b%b%b"]' % (text, text[:place], stray, text[place:]), [step]))
    # Control characters of the skeleton are msgspec's to refuse.
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        reply.base64(msgspec.json.decode(reply.skeleton)[1])


@given(st.binary(max_size=200_000), places)
@settings(max_examples=50)
def test_base64_is_base64_however_it_is_cut(data: bytes, where: list[int]) -> None:
    text = base64.b64encode(data)
    reply = lifted(cut(b'["%b"]' % text, where))
    (value,) = msgspec.json.decode(reply.skeleton)
    assert b"".join(chunks(reply.base64(value))) == text
    assert reply.texts_bytes == 0


def test_a_skeleton_has_a_limit() -> None:
    lifter = Lifter(skeleton_bytes=100)
    lifter.feed(b'["' + LONG.encode() * 50 + b'"')
    lifter.feed(b"," + b"1" * 90)
    with pytest.raises(LiftError):
        lifter.feed(b"1" * 20)


@pytest.mark.parametrize(
    "body",
    [b"\\" * 3_000_000, b'"' * 1_000_000, b'"' + b"\\" * 3_000_000, b'"' + b'\\"' * 1_000_000, b"[" * 1_000_000],
    ids=["backslashes", "quotes", "a string of backslashes", "a string of quotes", "brackets"],
)
def test_hostile_bodies_take_linear_time(body: bytes) -> None:
    """Anything worse than linear would not come back while somebody waits."""
    lifter = Lifter(skeleton_bytes=len(body) + 2)
    for start in range(0, len(body), 65536):
        lifter.feed(body[start : start + 65536])
    assert read(lifter.finish()) is REJECTED


LARGE = "A" * 40_000


@pytest.mark.parametrize("end", ["", "\\", '"', "\n", "é", "\\n", "-", "=="])
@pytest.mark.parametrize("start", ["", "\\", '"', "nA", "é", "uAAAA", " "])
def test_large_chunks_are_read_as_small_ones_are(start: str, end: str) -> None:
    value = [LARGE + end, start + LARGE + end + start + LARGE, {"a": end + LARGE}]
    body = json.dumps(value, ensure_ascii=False).encode()
    for size in (32_768, 40_001, 40_004, 50_000, len(body)):
        reply = lifted([body[place : place + size] for place in range(0, len(body), size)])
        assert decoded(msgspec.json.decode(reply.skeleton), reply) == value
        assert joined(reply) == body
        for text, string in zip([value[0], value[1]], reply.strings, strict=False):
            plain = str(text).isascii() and str(text).rstrip("=").isalnum()
            assert string.base64 == plain


def test_an_escape_may_be_cut_before_a_large_chunk() -> None:
    body = json.dumps(["x\n" + LARGE, LARGE + "\n" + LARGE]).encode()
    for place in (body.index(b"\\") + 1, body.rindex(b"\\") + 1):
        reply = lifted([body[:place], body[place:]])
        assert [decoded(value, reply) for value in msgspec.json.decode(reply.skeleton)] == [
            "x\n" + LARGE,
            LARGE + "\n" + LARGE,
        ]
        assert not any(string.base64 for string in reply.strings)
