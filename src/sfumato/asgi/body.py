"""A request's body: read within a bound, understood as JSON or a form, and handed on untouched where it is not ours."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive

from sfumato.errors import InvalidParameterError, PayloadTooLargeError
from sfumato.images.request import ImageSource
from sfumato.wire.openai_images import parse_image

T = TypeVar("T")
_MAX_FILES = 64
_MAX_FIELDS = 256
_IMAGE_FIELD = re.compile(r"image(?:\[(\d{0,3})\]|(\d{1,2}))?")
# Where a body cannot be parsed, its beginning still tells whose it is. Bounded: whoever sends it is not yet known.
_PEEKED_BYTES = 64 * 1024
_MODEL_IN_JSON = re.compile(rb'"model"[ \t\r\n]{0,16}:[ \t\r\n]{0,16}"([^"\\]{1,200})"')
_MODEL_IN_FORM = re.compile(rb'name="?model"?\r\n\r\n([^\r\n]{1,200})\r\n')
# A closing boundary may be followed by a line end and a short epilogue.
_EPILOGUE_BYTES = 512


class ClientDisconnectedError(Exception):
    """The client went away before its body was complete."""


async def until_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Return what *work* gives, unless the client is gone before: then end it. The request's body has been received.

    Raises:
        ClientDisconnectedError: The client went away.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise ClientDisconnectedError
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(slots=True)
class BufferedBody:
    """The body as it came, message by message, so that it can be replayed.

    Attributes:
        messages: What was received so far.
        size: Bytes received so far.
        complete: False when the bound was met first.
    """

    receive: Receive
    messages: list[Message] = field(default_factory=list)
    size: int = 0
    complete: bool = False

    async def read(self, max_bytes: int) -> None:
        """Receive until the end or until more than *max_bytes* came.

        Raises:
            ClientDisconnectedError: The client went away.
        """
        while not self.complete and self.size <= max_bytes:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError
            self.messages.append(message)
            self.size += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)

    def joined(self) -> bytes:
        """Return the bytes received so far."""
        parts = [message.get("body", b"") for message in self.messages]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def tail(self, count: int) -> bytes:
        """Return at most the last *count* bytes received so far."""
        end = b""
        for message in reversed(self.messages):
            end = message.get("body", b"")[-count:] + end
            if len(end) >= count:
                break
        return end[-count:]

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes received so far as they came."""
        for message in self.messages:
            yield message.get("body", b"")
        yield b""

    def replay(self) -> Receive:
        """Return a `receive` that gives the same messages again and then goes on with the connection."""
        waiting = iter(self.messages)

        async def receive() -> Message:
            for message in waiting:
                return message
            return await self.receive()

        return receive

    def peek_model(self) -> str | None:
        """Find the model's name in the first 64 KB, without parsing them."""
        head = bytearray()
        for message in self.messages:
            head += message.get("body", b"")[: _PEEKED_BYTES - len(head)]
            if len(head) >= _PEEKED_BYTES:
                break
        match = _MODEL_IN_JSON.search(head) or _MODEL_IN_FORM.search(head)
        return match[1].decode("utf-8", "replace") if match else None


@dataclass(frozen=True, slots=True)
class Form:
    """The parameters of a request: fields, and pictures that came as files."""

    fields: dict[str, Any]
    images: tuple[ImageSource, ...] = ()
    mask: ImageSource | None = None


async def parse_body(body: BufferedBody, headers: Headers, *, max_bytes: int) -> Form:
    """Understand a complete body by its content type; without one it is taken for JSON.

    Raises:
        InvalidParameterError: It is not what its content type says, or a form has a field twice.
        InvalidImageError: An image field holds no picture.
        PayloadTooLargeError: The bound was met before the end.
    """
    if not body.complete:
        raise PayloadTooLargeError(
            f"The request is larger than the {max_bytes:,} bytes accepted here. Send fewer or smaller images."
        )
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _parse_multipart(body, headers, max_bytes=max_bytes)
    if content_type and "json" not in content_type:
        raise InvalidParameterError(
            "The content type is not understood: send application/json or multipart/form-data.", param="content-type"
        )
    try:
        fields = msgspec.json.decode(body.joined())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise InvalidParameterError("The body is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise InvalidParameterError("The body must be a JSON object.")
    return Form(fields)


async def _parse_multipart(body: BufferedBody, headers: Headers, *, max_bytes: int) -> Form:
    _, options = parse_options_header(headers["content-type"])
    boundary = options.get(b"boundary", b"")
    # The parser takes a form that breaks off for one that ends: an edit would lose its mask and be billed.
    if not boundary or b"--" + boundary + b"--" not in body.tail(len(boundary) + _EPILOGUE_BYTES):
        raise _no_form("it breaks off before its end")
    # Of the content type only the boundary counts: a charset of the client's choice could make text that is none.
    plain = Headers({"content-type": f'multipart/form-data; boundary="{boundary.decode("latin-1")}"'})
    parser = MultiPartParser(
        plain, body.stream(), max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=max_bytes
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise _no_form(str(error) if isinstance(error, MultiPartException) else "it cannot be read") from None
    try:
        return await _read_form(form)
    finally:
        await form.close()


async def _read_form(form: FormData) -> Form:
    fields: dict[str, Any] = {}
    images: list[tuple[int, ImageSource]] = []
    mask: ImageSource | None = None
    for name, value in form.multi_items():
        place = _IMAGE_FIELD.fullmatch(name)
        if place:
            images.append((int(place[1] or place[2] or 0), await _source(name, value)))
        elif name in fields or (name == "mask" and mask is not None):
            raise InvalidParameterError(f"'{name[:100]}' was sent twice. Send it once.", param=name[:100])
        elif name == "mask":
            mask = await _source(name, value)
        else:
            # No parameter is a file: bytes are of the wrong type for those that exist and unknown like the rest.
            fields[name] = b"" if isinstance(value, UploadFile) else value
    # Stable: unnumbered fields keep their order.
    images.sort(key=lambda numbered: numbered[0])
    return Form(fields, tuple(source for _, source in images), mask)


async def _source(name: str, value: UploadFile | str) -> ImageSource:
    return ImageSource(name, data=await value.read()) if isinstance(value, UploadFile) else parse_image(value, name)


def _no_form(why: str) -> InvalidParameterError:
    return InvalidParameterError(f"The body is not a valid multipart form: {why[:200]}.", param="content-type")
