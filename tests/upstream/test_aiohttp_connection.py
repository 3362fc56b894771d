from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from sfumato.upstream.aiohttp_connection import Connection, Connector
from sfumato.upstream.direct_body import READY_BYTES, DirectBody
from sfumato.upstream.framing import Sized

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
# The same in each process: cases are named after it.
BODY = random.Random(1).randbytes(1_000_000)
EMPTY = b"content-length: 0\r\n\r\n"


def sized(body: bytes = BODY) -> bytes:
    return OK + b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes = BODY, size: int = 70_000) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return OK + b"transfer-encoding: chunked\r\n\r\n" + encoded + b"0\r\n\r\n"


class Server:
    """Answer one request after the other with given parts, each sent on its own."""

    def __init__(self, answers: Sequence[Sequence[bytes]], *, closes: bool) -> None:
        self.answers = list(answers)
        self.closes = closes
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                await reader.readuntil(b"\r\n\r\n")
                for part in self.answers.pop(0):
                    writer.write(part)
                    await writer.drain()
                    # The other side reads what came before more comes.
                    for _ in range(20):
                        await asyncio.sleep(0)
                if self.closes:
                    return
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Session:
    """Ask the server."""

    def __init__(self, session: aiohttp.ClientSession, server: Server, url: str) -> None:
        self.session = session
        self.server = server
        self.url = url

    async def get(self, method: str = "GET", **options: object) -> tuple[aiohttp.ClientResponse, bytes]:
        async with self.session.request(method, self.url, **options) as response:  # type: ignore[arg-type]
            content = response.content
            if isinstance(content, DirectBody):
                return response, b"".join([part async for part in content])
            return response, await response.read()


async def read_into(parts: list[bytes], body: DirectBody) -> None:
    async for part in body:
        parts.append(part)  # noqa: PERF401  # what came before an error is wanted, too


@asynccontextmanager
async def asking(
    *answers: Sequence[bytes], closes: bool = False, connector: Connector | None = None
) -> AsyncIterator[Session]:
    server = Server(answers, closes=closes)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    async with listening, aiohttp.ClientSession(connector=connector or Connector(), auto_decompress=False) as session:
        yield Session(session, server, f"http://{host}:{port}/")


@pytest.mark.parametrize("answer", [sized(), chunked(), chunked(size=9), sized(b"small"), chunked(b"small")])
async def test_bodies_pass_the_parser_by_and_connections_are_used_again(answer: bytes) -> None:
    async with asking([answer], [answer], [answer]) as asked:
        for _ in range(3):
            response, body = await asked.get()
            assert isinstance(response.content, DirectBody)
            assert body in (BODY, b"small")
    assert asked.server.connections == 1


@pytest.mark.parametrize(
    ("kind", "name", "changed"),
    [
        (ResponseHandler, "start_timeout", None),
        (ResponseHandler, "force_close", None),
        (ResponseHandler, "read_timeout", property(lambda _: None, lambda *_: None)),
        (aiohttp.StreamReader, "is_eof", property(lambda _: False)),
        (ResponseHandler, "exception", property()),
    ],
)
async def test_with_an_aiohttp_that_has_changed_bodies_come_its_own_way(
    kind: type[object], name: str, changed: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sfumato")
    async with asking() as asked:
        assert asked.session.connector
        assert not caplog.messages
        with monkeypatch.context() as later:
            later.setattr(kind, name, changed)
            connector = Connector()
    (message,) = caplog.messages
    assert message.startswith(f"aiohttp {aiohttp.__version__} is not known here")
    async with asking([sized()], [chunked()], connector=connector) as asked:
        for _ in range(2):
            response, body = await asked.get()
            assert not isinstance(response.content, DirectBody)
            assert body == BODY


async def test_a_head_may_come_in_any_parts() -> None:
    for answer in (sized(b"body"), chunked(b"body", 3)):
        parts = [answer[place : place + 1] for place in range(len(answer))]
        async with asking(parts, [answer]) as asked:
            for _ in range(2):
                response, body = await asked.get()
                assert isinstance(response.content, DirectBody)
                assert body == b"body"
        assert asked.server.connections == 1


async def test_answers_without_a_body_leave_the_connection_as_it_was() -> None:
    head = OK + b"content-length: 5000\r\n\r\n"
    answers = [
        [b"HTTP/1.1 204 None\r\n\r\n"],
        [OK + EMPTY],
        [head],
        [sized()],
        [b"HTTP/1.1 304 Same\r\n\r\n"],
        [chunked()],
    ]
    async with asking(*answers) as asked:
        methods = ("GET", "GET", "HEAD", "GET", "GET", "GET")
        bodies = [(await asked.get(method))[1] for method in methods]
    assert bodies == [b"", b"", b"", BODY, b"", BODY]
    assert asked.server.connections == 1


async def test_an_answer_may_be_announced() -> None:
    announced = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"
    async with asking([announced + sized()], [announced, chunked()]) as asked:
        assert (await asked.get())[1] == BODY
        assert (await asked.get())[1] == BODY


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"\r\n" + BODY,
        OK + b"connection: close\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\ncontent-length: 1000000\n\n" + BODY,
        b"HTTP/1.1 200 OK\ncontent-length: 1000000\n\n\r\n\r\n" + BODY[4:],
    ],
    ids=["until the end", "until the end, said so", "bare line feeds", "bare line feeds, and what ends a head later"],
)
async def test_what_is_unusual_goes_through_the_parser(answer: bytes) -> None:
    for parts in ([answer], [answer[:30], answer[30:]]):
        async with asking(parts, closes=True) as asked:
            response, body = await asked.get()
        assert not isinstance(response.content, DirectBody)
        assert body[4:] == BODY[4:]
        assert body[:4] in {BODY[:4], b"\r\n\r\n"}


@pytest.mark.parametrize("answer", [sized()[:-1], chunked()[:-1], chunked()[:-20], chunked()[:5000], sized(b"ab")[:-1]])
async def test_a_body_that_is_cut_short_is_an_error(answer: bytes) -> None:
    async with asking([answer], closes=True) as asked:
        with pytest.raises(aiohttp.ClientPayloadError):
            await asked.get()


async def test_what_came_before_the_connection_broke_is_read_first() -> None:
    async with asking([sized()[:500_000]], closes=True) as asked, asked.session.get(asked.url) as response:
        assert isinstance(response.content, DirectBody)
        parts: list[bytes] = []
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_into(parts, response.content)
    read = b"".join(parts)
    assert read == BODY[: len(read)]
    assert len(read) > 499_000


async def test_what_is_no_chunk_closes_the_connection() -> None:
    async with asking([chunked()[:70_100] + b"nothing of the kind" * 5000], [sized()]) as asked:
        with pytest.raises(aiohttp.ClientPayloadError):
            await asked.get()
        assert (await asked.get())[1] == BODY
    assert asked.server.connections == 2


@pytest.mark.parametrize("answer", [sized(), chunked(), sized(b"small")])
async def test_a_connection_that_says_more_than_it_was_asked_is_left(answer: bytes) -> None:
    async with asking([answer + b"more"], [sized()]) as asked:
        assert (await asked.get())[1] in (BODY, b"small")
        assert (await asked.get())[1] == BODY
    assert asked.server.connections == 2


@pytest.mark.parametrize("answer", [sized(), chunked(), sized(b"small")])
@pytest.mark.parametrize("more", [b"more", b"0\r\n\r\n", b"0\r\n\r\n" + sized(b"evil"), sized(b"evil")])
async def test_a_connection_that_says_more_later_is_left(answer: bytes, more: bytes) -> None:
    async with asking([answer, more], [sized()]) as asked:
        assert (await asked.get())[1] in (BODY, b"small")
        for _ in range(200):
            await asyncio.sleep(0)
        assert (await asked.get())[1] == BODY
    assert asked.server.connections == 2


@pytest.mark.parametrize("heads", [b"\r\n\r\n", b"HTTP/1.1 102 Wait\r\n\r\n", b"garbage\r\n\r\n"])
async def test_heads_without_end_are_no_answer(heads: bytes) -> None:
    async with asking([heads * 20_000]) as asked:
        with pytest.raises(aiohttp.ClientError):
            await asked.get()


async def test_a_connection_whose_body_nobody_reads_is_left() -> None:
    async with asking([sized(BODY * 20)], [sized()]) as asked:
        async with asked.session.get(asked.url) as response:
            assert response.status == 200
        assert (await asked.get())[1] == BODY
    assert asked.server.connections == 2


async def test_a_body_that_pauses_for_too_long_is_an_error() -> None:
    async with asking([sized()[:-1]]) as asked:
        with pytest.raises(aiohttp.SocketTimeoutError):
            await asked.get(timeout=aiohttp.ClientTimeout(sock_read=0.05))


class Line(Connection):
    """A connection that only notes whether it receives."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.changes: list[str] = []

    def pause_body(self) -> None:
        self.changes.append("pause")

    def resume_body(self) -> None:
        self.changes.append("resume")


async def test_receiving_pauses_while_nobody_reads() -> None:
    line = Line()
    body = DirectBody(Sized(10 * READY_BYTES), line)
    for _ in range(4):
        body.receive(bytes(READY_BYTES // 2))
    assert line.changes == ["pause"]
    for _ in range(4):
        assert await anext(body)
    assert line.changes == ["pause", "resume"]


async def test_a_body_s_end_leaves_the_connection_receiving() -> None:
    """Its next body's reader would wait for ever; only aiohttp 3.14 and later resume by themselves."""
    line = Line()
    body = DirectBody(Sized(2 * READY_BYTES), line)
    body.receive(bytes(READY_BYTES + 1))
    body.receive(bytes(READY_BYTES - 1))
    assert line.changes == ["pause", "resume"]
    # From here on the connection may be another's.
    assert [len(part) async for part in body] == [READY_BYTES + 1, READY_BYTES - 1]
    assert line.changes == ["pause", "resume"]


async def test_a_body_that_ends_with_what_is_too_much_pauses_nothing() -> None:
    line = Line()
    body = DirectBody(Sized(READY_BYTES + 1), line)
    body.receive(bytes(READY_BYTES + 1))
    assert line.changes == []
    assert [len(part) async for part in body] == [READY_BYTES + 1]


class Wire(asyncio.Transport):
    """A transport that only notes whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


async def test_a_pause_of_ours_is_not_the_servers() -> None:
    connection, wire = Connection(asyncio.get_running_loop()), Wire()
    connection.connection_made(wire)
    connection.set_response_params(read_timeout=5.0)
    connection.data_received(OK + b"content-length: 9999999\r\n\r\n")
    _, body = await connection.read()
    assert isinstance(body, DirectBody)
    connection.data_received(bytes(READY_BYTES + 1))
    assert (wire.reads, connection.read_timeout) == (False, None)
    await anext(body)
    assert (wire.reads, connection.read_timeout) == (True, 5.0)
    connection.connection_lost(None)
