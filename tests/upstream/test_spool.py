from __future__ import annotations

import gc
import logging
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pybase64
import pytest
from anyio import to_thread

from sfumato.engine.finishing import read_picture
from sfumato.errors import UpstreamFailureError
from sfumato.upstream.spool import Spool, Spooled
from sfumato.upstream.transport import read_answer
from sfumato.wire.gemini import Answer, parse_response
from sfumato.wire.lifter import Lifted, Lifter
from sfumato.wire.payload import chunks, raw_bytes, size_of, spans
from tests.support.samples import encoded, noise

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024
CHUNK = 128 * 1024


def document(text: bytes) -> bytes:
    return b'{"candidates":[{"content":{"parts":[{"inlineData":{"data":"%b"}}]}}]}' % text


async def read(spool: Spool, body: bytes, *, step: int = CHUNK) -> Lifted:
    lifter = Lifter()
    with spool.tab() as tab:
        for start in range(0, len(body), step):
            chunk = body[start : start + step]
            lifter.feed(chunk)
            await tab.fed(len(chunk), lifter)
        return tab.settle(lifter.finish())


async def answered(spool: Spool, text: bytes, **options: int) -> Answer:
    return parse_response(await read(spool, document(text), **options))


def in_memory(answer: Answer) -> int:
    return sum(len(piece) for piece in answer.encoded if isinstance(piece, bytes | memoryview))


async def open_files() -> int:
    # The thread that wrote lets go of its last job before it takes the next.
    await to_thread.run_sync(int)
    gc.collect()
    return len(os.listdir("/dev/fd"))  # noqa: PTH208  # names only


def text_of(megabytes: int) -> bytes:
    return bytes(range(48, 58)) * (megabytes * MEGABYTE // 10)


async def test_within_the_budget_everything_stays_in_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=8 * MEGABYTE)
    text = text_of(4)
    answer = await answered(spool, text)
    assert in_memory(answer) == len(text)
    assert b"".join(chunks(answer.encoded)) == text


@pytest.mark.parametrize("step", [CHUNK, 1000, 40_000, 3 * MEGABYTE])
async def test_past_the_budget_pieces_are_in_a_file_without_a_name(tmp_path: Path, step: int) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=MEGABYTE)
    text = text_of(10)
    # Another one has been read for longer.
    with spool.tab():
        answer = await answered(spool, text, step=step)
    assert in_memory(answer) < 5 * MEGABYTE
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # names only
    assert size_of(answer.encoded) == len(text)
    assert b"".join(chunks(answer.encoded)) == text
    assert b"".join(span.read_now() or span.read() for span in spans(answer.encoded, 100_001)) == text


async def test_the_budget_holds_while_an_answer_is_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=4 * MEGABYTE)
    lifter = Lifter()
    lifter.feed(b'["')
    most = 0
    with spool.tab(), spool.tab() as tab:
        for _ in range(200):
            lifter.feed(b"A" * CHUNK)
            await tab.fed(CHUNK, lifter)
            most = max(most, spool.held_bytes)
    assert 4 * MEGABYTE - CHUNK <= most <= 4 * MEGABYTE + CHUNK


async def test_the_one_that_is_read_longest_stays_in_memory_while_others_leave(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=4 * MEGABYTE)
    answer = await answered(spool, text_of(10))
    assert in_memory(answer) == size_of(answer.encoded)
    assert in_memory(await answered(spool, text_of(10))) < 5 * MEGABYTE, "what is not sent yet fills the budget"


async def test_the_others_wait_until_something_is_let_go(tmp_path: Path) -> None:
    waited: list[float] = []
    answers: list[Answer] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            answers.clear()

    spool = Spool(tmp_path, patience_seconds=60, after_bytes=4 * MEGABYTE, sleep=sleep)
    answers.append(await answered(spool, text_of(5)))
    answer = await answered(spool, text_of(3))
    assert len(waited) == 3
    assert in_memory(answer) == size_of(answer.encoded)


async def test_whoever_has_waited_long_enough_goes_to_disk(tmp_path: Path) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    spool = Spool(tmp_path, patience_seconds=0.5, after_bytes=4 * MEGABYTE, sleep=sleep)
    standing = await answered(spool, text_of(5))
    answer = await answered(spool, text_of(5))
    assert sum(waited) == pytest.approx(0.5, abs=0.011)
    assert in_memory(answer) < in_memory(standing)


async def test_the_budget_is_one_for_all_answers(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=6 * MEGABYTE)
    text = text_of(5)
    answers = [await answered(spool, text) for _ in range(8)]
    assert sum(map(in_memory, answers)) < 6 * MEGABYTE + 8 * 2 * MEGABYTE
    assert in_memory(answers[-1]) < 2 * MEGABYTE
    assert spool.held_bytes == sum(map(in_memory, answers))
    assert all(b"".join(chunks(answer.encoded)) == text for answer in answers)


async def test_what_is_let_go_no_longer_counts(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=4 * MEGABYTE)
    before = await open_files()
    answers = [await answered(spool, text_of(6)) for _ in range(3)]
    assert spool.held_bytes > 0
    assert await open_files() > before
    answers.clear()
    assert spool.held_bytes == 0
    assert await open_files() == before
    assert in_memory(await answered(spool, text_of(3))) == size_of((text_of(3),))


async def test_pictures_that_are_not_chosen_no_longer_count(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=64 * MEGABYTE)
    parts = b",".join(b'{"inlineData":{"data":"%b"}}' % text_of(size) for size in (3, 2, 1))
    reply = await read(spool, b'{"candidates":[{"content":{"parts":[%b]}}]}' % parts)
    assert spool.held_bytes > 5 * MEGABYTE
    answer = parse_response(reply)
    del reply
    assert spool.held_bytes == size_of(answer.encoded) == len(text_of(1))


async def test_every_long_string_of_an_answer_can_go_to_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=0)
    texts = [text_of(size) for size in (20, 1, 20)]
    reply = await read(spool, b"[%b]" % b",".join(b'"%b"' % text for text in texts))
    assert [b"".join(chunks(string.pieces)) for string in reply.strings] == texts
    for string in reply.strings:
        # What is less than a batch, at its end.
        assert sum(len(piece) for piece in string.pieces if isinstance(piece, bytes)) < MEGABYTE


async def test_an_answer_that_breaks_off_holds_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=MEGABYTE)
    before = await open_files()

    async def broken() -> None:
        lifter = Lifter()
        with spool.tab() as tab:
            for _ in range(40):
                chunk = b'{"data":"' if not spool.held_bytes else b"A" * CHUNK
                lifter.feed(chunk)
                await tab.fed(len(chunk), lifter)
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await broken()
    assert spool.held_bytes == 0
    assert await open_files() == before


async def test_a_picture_in_pieces_and_on_disk_is_read_like_any_other(tmp_path: Path) -> None:
    picture = encoded(noise(64, 48), "JPEG") + bytes(6 * MEGABYTE)
    answer = await answered(
        Spool(tmp_path, patience_seconds=0, after_bytes=0), pybase64.b64encode(picture), step=200_001
    )
    assert in_memory(answer) < 2 * MEGABYTE
    found = read_picture(answer.encoded)
    assert (found.mime_type, found.width, found.height) == ("image/jpeg", 64, 48)
    assert raw_bytes(found) == picture


async def test_escapes_are_undone_from_disk(tmp_path: Path) -> None:
    text = text_of(4)
    answer = await answered(Spool(tmp_path, patience_seconds=0, after_bytes=0), text[:-1] + b"\\/" + text)
    assert b"".join(chunks(answer.encoded)) == text[:-1] + b"/" + text


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file grow past two megabytes, as a full disk would not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MEGABYTE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, previous)


@pytest.mark.usefixtures("full_disk")
async def test_a_full_disk_costs_memory_and_no_picture(tmp_path: Path) -> None:
    spool = Spool(tmp_path, patience_seconds=0, after_bytes=0)
    text = text_of(8)
    answers = [await answered(spool, text) for _ in range(3)]
    assert all(b"".join(chunks(answer.encoded)) == text for answer in answers)
    assert spool.held_bytes == sum(map(in_memory, answers)) > 3 * 5 * MEGABYTE


async def test_a_directory_that_is_gone_is_told_once_and_its_return_after_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sfumato")
    directory = tmp_path / "spool"
    now = 0.0
    spool = Spool(directory, patience_seconds=0, after_bytes=0, clock=lambda: now)
    text = text_of(4)

    async def held() -> int:
        return in_memory(await answered(spool, text))

    assert await held() == await held() == len(text)
    assert [record.getMessage() for record in caplog.records] == [
        "Answers cannot be spooled (FileNotFoundError) and stay in memory."
    ]
    # As on a disk that is almost full, where one answer fits and the next does not.
    for _ in range(3):
        directory.mkdir()
        assert await held() < 2 * MEGABYTE
        directory.rmdir()
        assert await held() == len(text)
        now += 59
    assert len(caplog.records) == 1
    directory.mkdir()
    now += 2
    assert await held() < 2 * MEGABYTE
    assert [record.getMessage() for record in caplog.records][1:] == ["Answers can be spooled again."]
    assert str(tmp_path) not in caplog.text


async def test_a_file_cut_short_is_a_fault_and_never_a_shorter_picture(tmp_path: Path) -> None:
    answer = await answered(Spool(tmp_path, patience_seconds=0, after_bytes=0), text_of(4))
    (blob, *_) = (piece for piece in answer.encoded if not isinstance(piece, bytes | memoryview))
    os.ftruncate(blob._file.descriptor, 1000)  # type: ignore[attr-defined]
    assert blob.read(0, 10) == text_of(4)[:10]
    with pytest.raises(OSError, match="shorter"):
        blob.read(0, 2000)


async def test_text_that_cannot_be_read_from_disk_any_more_is_an_answer_that_is_lost(tmp_path: Path) -> None:
    reply = await read(Spool(tmp_path, patience_seconds=0, after_bytes=0), document(b"A\\/" + text_of(3)))
    (string,) = reply.strings
    spooled = next(piece for piece in string.pieces if not isinstance(piece, bytes | memoryview))
    assert isinstance(spooled, Spooled)
    os.ftruncate(spooled._file.descriptor, 0)

    with pytest.raises(UpstreamFailureError) as caught:
        await read_answer(reply)

    assert (caught.value.retryable, caught.value.reason) == (True, "LOST_ANSWER")
