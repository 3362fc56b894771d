from __future__ import annotations

import asyncio
import json
import os
import threading
from typing import Any

import pybase64
import pytest
from starlette.types import Message

from sfumato.asgi.answers import send_json, send_result, stream
from sfumato.images.request import Blob, GeneratedImage, ImageResult, Picture, Usage
from sfumato.wire.payload import Base64Text
from tests.cache.contract import sample_request

pytestmark = pytest.mark.anyio
RAW = os.urandom(1_000_001)


class Disk:
    """A picture's file: in memory or not, and what was read of it so far."""

    def __init__(self, data: bytes, *, ready: bool = True) -> None:
        self.data = data
        self.ready = ready
        self.read_bytes = 0
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        self.read_bytes += stop - start
        self.threads.add(threading.get_ident())
        return self.data[start:stop]

    def read_now(self, start: int, stop: int) -> bytes | None:
        return self.read(start, stop) if self.ready else None


class Client:
    """Takes an answer's messages, as many as it wants."""

    def __init__(self, wanted: int | None = None) -> None:
        self.messages: list[Message] = []
        self.full = asyncio.Event()
        self._wanted = wanted

    async def __call__(self, message: Message) -> None:
        if len(self.messages) == self._wanted:
            self.full.set()
            await asyncio.Event().wait()
        self.messages.append(message)

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


def result(raw: bytes | Blob, **wish: Any) -> ImageResult:
    picture = Picture(raw=raw, mime_type="image/jpeg", width=3, height=2)
    image = GeneratedImage(slot=0, picture=picture, usage=Usage(), price_usd=0.1, created=1.0, age_seconds=2.0)
    return ImageResult(request=sample_request(**wish), images=(image,), created=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_small_answer_is_one_message() -> None:
    client = Client()
    await send_json(client, 200, {"ok": True}, x_extra="1")
    start, body = client.messages
    assert (start["status"], client.headers["x-extra"], client.headers["content-length"]) == (200, "1", "11")
    assert body == {"type": "http.response.body", "body": b'{"ok":true}', "more_body": False}


@pytest.mark.parametrize("raw", [RAW, Disk(RAW), Disk(RAW, ready=False)], ids=["bytes", "in memory", "on disk"])
@pytest.mark.parametrize(("form", "prefix"), [("b64_json", ""), ("url", "data:image/jpeg;base64,")])
async def test_a_picture_is_encoded_as_it_is_sent(raw: bytes | Blob, form: str, prefix: str) -> None:
    client = Client()
    await send_result(client, result(raw, response_format=form), request_id="r")
    assert len(client.body) == int(client.headers["content-length"])
    assert json.loads(client.body)["data"][0][form] == prefix + pybase64.b64encode(RAW).decode()
    assert max(len(message.get("body", b"")) for message in client.messages) <= 64 * 1024
    assert [message["more_body"] for message in client.messages[1:]] == [True] * (len(client.messages) - 2) + [False]


async def test_a_slow_client_holds_one_chunk() -> None:
    disk, client = Disk(RAW), Client(wanted=4)
    sending = asyncio.create_task(send_result(client, result(disk), request_id="r"))
    await client.full.wait()
    assert disk.read_bytes <= 4 * 48 * 1024
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_what_a_disk_must_be_waited_for_is_waited_for_in_threads() -> None:
    here = threading.get_ident()
    ready, cold = Disk(RAW), Disk(RAW, ready=False)
    for disk in (ready, cold):
        assert b"".join([chunk async for chunk in stream((Base64Text(disk),))]) == pybase64.b64encode(RAW)
    assert ready.threads == {here}
    assert here not in cold.threads


async def test_others_get_their_turn_while_a_fast_client_is_sent_to() -> None:
    client, turns = Client(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await send_result(client, result(RAW), request_id="r")
    task.cancel()
    assert turns >= 4


async def test_a_picture_s_file_that_fails_on_the_way_is_an_error() -> None:
    class Gone(Disk):
        def read(self, start: int, stop: int) -> bytes:
            if stop > 500_000:
                raise OSError("gone")
            return super().read(start, stop)

    client = Client()
    with pytest.raises(OSError, match="gone"):
        await send_result(client, result(Gone(RAW)), request_id="r")
    assert client.messages[-1]["more_body"] is True
