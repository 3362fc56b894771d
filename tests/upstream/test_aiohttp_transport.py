from __future__ import annotations

import asyncio
import gzip
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest

from sfumato.errors import ConfigurationError
from sfumato.upstream.aiohttp_transport import AiohttpTransport, _httpx_errors

pytestmark = pytest.mark.anyio


class Server:
    """Answer every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        sizes = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        self.requests.append(head + await reader.readexactly(sum(sizes)))
        writer.write(self.answer)
        await writer.drain()
        if self.answer:
            await reader.read()
        writer.close()


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[httpx.AsyncClient, Server]]:
    server = Server(answer)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    server.url = f"http://{host}:{port}"
    async with listening, httpx.AsyncClient(transport=AiohttpTransport(), timeout=5, base_url=server.url) as client:
        yield client, server


def ok(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 Fine", b"content-length: %d" % len(body), *headers, b"", body])


async def test_an_answer_is_what_came() -> None:
    async with answering(ok(b"hello", b"x-a: 1", b"x-a: 2", b"set-cookie: a=b")) as (client, _):
        response = await client.get("/x")
    assert (response.status_code, response.reason_phrase, response.http_version) == (200, "Fine", "HTTP/1.1")
    assert response.headers.get_list("x-a") == ["1", "2"]
    assert response.content == b"hello"


# In a process of its own: ours has imported it.
ELSEWHERE = """
import asyncio, sys
import aiohttp, httpx
sys.modules["aiohttp.client_proto"] = None
from sfumato.upstream.aiohttp_transport import AiohttpTransport

async def main():
    async with httpx.AsyncClient(transport=AiohttpTransport()) as client:
        print((await client.get(sys.argv[1])).text)

asyncio.run(main())
"""


async def test_an_aiohttp_that_keeps_its_connections_elsewhere_does_as_well() -> None:
    async with answering(ok(b"hello")) as (_, server):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", ELSEWHERE, server.url, stdout=PIPE)
        told, _ = await process.communicate()
    assert told == b"hello\n"


async def test_a_request_is_what_httpx_made_and_nothing_more() -> None:
    async with answering(ok(b"")) as (client, server):
        await client.post(
            "/a%20b?c=%2F&d=e%2Cf", content=b"body", headers=[("x-a", "1"), ("x-a", "2"), ("Cookie", "a=b")]
        )
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert (first, body) == (b"POST /a%20b?c=%2F&d=e%2Cf HTTP/1.1", b"body")
    names = [line.split(b":")[0].lower() for line in lines]
    assert sorted(names) == sorted(
        [
            b"host",
            b"accept",
            b"accept-encoding",
            b"connection",
            b"user-agent",
            b"cookie",
            b"content-length",
            b"x-a",
            b"x-a",
        ]
    )
    assert b"python-httpx" in head


async def test_httpx_undoes_compression_and_not_this() -> None:
    zipped = gzip.compress(b"hello")
    async with answering(ok(zipped, b"content-encoding: gzip")) as (client, _):
        assert (await client.get("/")).content == b"hello"
    async with answering(ok(zipped, b"content-encoding: gzip")) as (client, _), client.stream("GET", "/") as response:
        assert b"".join([chunk async for chunk in response.aiter_raw()]) == zipped


async def test_large_bodies_come_in_large_chunks() -> None:
    body = os.urandom(8_000_000)
    async with answering(ok(body)) as (client, _), client.stream("GET", "/") as response:
        found = [chunk async for chunk in response.aiter_raw()]
    assert b"".join(found) == body
    assert len(body) / len(found) > 64 * 1024


async def test_cookies_are_not_kept() -> None:
    async with answering(ok(b"", b"set-cookie: a=b", b"connection: close")) as (client, server):
        for _ in range(2):
            client.cookies.clear()
            # By a name: cookies of bare addresses are kept nowhere.
            await client.get(server.url.replace("127.0.0.1", "localhost"))
    assert len(server.requests) == 2
    assert b"a=b" not in server.requests[1]


async def test_redirects_are_for_httpx_to_follow() -> None:
    answer = b"HTTP/1.1 302 Found\r\nlocation: /there\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    async with answering(answer) as (client, server):
        assert (await client.get("/")).status_code == 302
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"garbage\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", httpx.RemoteProtocolError),
    ],
    ids=["closed", "garbage", "endless header"],
)
async def test_what_is_no_answer_is_an_error_of_httpx(answer: bytes, kind: type[Exception]) -> None:
    async with answering(answer) as (client, _):
        with pytest.raises(kind):
            await client.get("/")


async def test_nobody_there() -> None:
    async with answering(b"") as (client, _):
        pass
    async with httpx.AsyncClient(transport=AiohttpTransport()) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(str(_.url))


async def test_an_answer_that_does_not_come_in_time() -> None:
    async with answering(b"HTTP/1.1 200") as (client, _):
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=httpx.Timeout(5, read=0.05))


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/", "http:///x"])
async def test_an_address_of_another_kind(address: str) -> None:
    async with httpx.AsyncClient(transport=AiohttpTransport()) as client:
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get(address)


def every(kind: type[BaseException]) -> list[type[BaseException]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in every(child))]


@pytest.mark.parametrize("kind", [*dict.fromkeys(every(aiohttp.ClientError)), OSError, TimeoutError])
def test_every_error_of_aiohttp_has_a_word_of_httpx(kind: type[Exception]) -> None:
    error = type("Made", (kind,), {"__init__": lambda _: None, "__str__": lambda _: "made"})()
    with pytest.raises(httpx.TransportError) as caught, _httpx_errors():
        raise error
    assert caught.value.__cause__ is error
    assert isinstance(caught.value, httpx.TimeoutException) == isinstance(error, TimeoutError)


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_certificates_that_cannot_be_read_are_the_operator_s_matter(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with answering(ok(b"hello")) as (client, server):
        with pytest.raises(ConfigurationError, match="SSL_CERT_FILE") as caught:
            await client.get("/x")
    assert str(tmp_path) not in str(caught.value)
    assert not server.requests
