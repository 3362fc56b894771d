from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from sfumato.asgi.body import BufferedBody, ClientDisconnectedError, Form, parse_body
from sfumato.errors import InvalidParameterError, PayloadTooLargeError

pytestmark = pytest.mark.anyio
BOUNDARY = "b0undary"
FORM = f'multipart/form-data; boundary="{BOUNDARY}"'


async def received(*pieces: bytes, limit: int = 1_000_000, ended: bool = True) -> BufferedBody:
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b""} if ended else {"type": "http.disconnect"})
    waiting = iter(messages)

    async def receive() -> Message:
        return next(waiting)

    body = BufferedBody(receive)
    await body.read(limit)
    return body


def part(name: str, value: str, filename: str | None = None) -> str:
    file = f'; filename="{filename}"' if filename else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n{value}\r\n'


async def parsed(*pieces: bytes, content_type: str = FORM) -> Form:
    body = await received(*pieces)
    return await parse_body(body, Headers({"content-type": content_type}), max_bytes=1_000_000)


async def refused(*pieces: bytes, content_type: str = FORM) -> InvalidParameterError:
    with pytest.raises(InvalidParameterError) as caught:
        await parsed(*pieces, content_type=content_type)
    return caught.value


def form(*parts: str, end: str = f"--{BOUNDARY}--\r\n") -> bytes:
    return ("".join(parts) + end).encode()


@pytest.mark.parametrize("end", ["", f"--{BOUNDARY}", "--other--\r\n"])
async def test_a_form_that_breaks_off_is_refused(end: str) -> None:
    """Its last part may be the mask, without which the edit would be another one, and billed."""
    whole = form(part("prompt", "x"), part("mask", "png", "m.png"))
    assert (await parsed(whole)).mask is not None
    error = await refused(form(part("prompt", "x"), part("mask", "png", "m.png"), end=end))
    assert "breaks off" in error.message


async def test_an_epilogue_is_allowed() -> None:
    assert (await parsed(form(part("prompt", "x")) + b"bye\r\n")).fields == {"prompt": "x"}


@pytest.mark.parametrize("name", ["prompt", "model", "mask", "n"])
async def test_a_field_that_comes_twice_is_refused(name: str) -> None:
    """Which of the two was meant is not ours to guess."""
    file = "m.png" if name == "mask" else None
    error = await refused(form(part(name, "1", file), part(name, "2", file)))
    assert error.param == name


async def test_numbered_pictures_come_in_their_order() -> None:
    names = ["image[2]", "image3", "image[]", "image[1]", "image"]
    found = await parsed(form(*(part(name, name, "a.png") for name in names)))
    assert [source.data for source in found.images] == [b"image[]", b"image", b"image[1]", b"image[2]", b"image3"]


@pytest.mark.parametrize("charset", ["utf-7", "undefined", "punycode", "unicode_escape", "no-such"])
async def test_a_charset_of_the_clients_choice_means_nothing(charset: str) -> None:
    found = await parsed(form(part("prompt", "späße +2D3-")), content_type=f"{FORM}; charset={charset}")
    assert found.fields == {"prompt": "späße +2D3-"}


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", f"{FORM}; x"])
async def test_a_form_needs_its_boundary(content_type: str) -> None:
    if content_type.endswith("; x"):
        assert (await parsed(form(part("prompt", "x")), content_type=content_type)).fields
    else:
        await refused(form(part("prompt", "x")), content_type=content_type)


async def test_fields_and_files_are_bounded_in_number() -> None:
    assert "Too many" in (await refused(form(*(part(f"f{n}", "") for n in range(300))))).message
    assert "Too many" in (await refused(form(*(part("image", "x", "a") for _ in range(70))))).message


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b"{", b"[]", b'"text"'], ids=lambda body: repr(body[:8])
)
async def test_what_is_not_a_json_object_is_the_clients_mistake(body: bytes) -> None:
    await refused(body, content_type="application/json")


async def test_the_bound_is_met_while_reading() -> None:
    body = await received(b"a" * 600, b"b" * 600, b"c" * 600, limit=1000)
    assert (body.size, body.complete) == (1200, False)
    with pytest.raises(PayloadTooLargeError):
        await parse_body(body, Headers({}), max_bytes=1000)


async def test_a_client_that_leaves_is_noticed() -> None:
    with pytest.raises(ClientDisconnectedError):
        await received(b"{", ended=False)


async def test_what_was_read_is_replayed_and_the_rest_follows() -> None:
    later: list[Message] = [{"type": "http.request", "body": b"later"}]
    body = await received(b"a" * 10, b"b" * 10, limit=5)

    async def receive() -> Message:
        return later.pop(0)

    body.receive = receive
    replay = body.replay()
    assert [(await replay())["body"] for _ in range(2)] == [b"a" * 10, b"later"]


@pytest.mark.parametrize(
    ("pieces", "model"),
    [
        ((b'{"prompt": "x", "mod', b'el" : "gemini-3-pro-image", "a": "'), "gemini-3-pro-image"),
        ((part("model", "gpt").encode(),), "gpt"),
        ((part("prompt", "x").encode(), part("model", "gpt").encode()), "gpt"),
        ((b"a" * 70_000, b'"model": "late"'), None),
        ((b"name=model\r\n" * 100_000,), None),
        ((b'"model"' + b" " * 100_000,), None),
        ((b'{"model": 7}',), None),
    ],
)
async def test_the_model_is_found_in_the_beginning_only(pieces: tuple[bytes, ...], model: str | None) -> None:
    """Whoever sends it may not be known yet, so no more than 64 KB are looked at, and each byte a few times at most."""
    assert (await received(*pieces, limit=10_000_000)).peek_model() == model


async def test_the_tail_is_read_across_messages() -> None:
    body: Any = await received(b"abc", b"de", b"f")
    assert (body.tail(4), body.tail(100), body.tail(1)) == (b"cdef", b"abcdef", b"f")
