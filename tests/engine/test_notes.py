"""One suite over every kind of note: the first text stands, for its time."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest

from sfumato.cache.redis import connect
from sfumato.cache.store import StoreUnavailableError
from sfumato.engine.file_notes import FileNotes
from sfumato.engine.notes import LocalNotes, Notes
from sfumato.engine.redis_notes import RedisNotes
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@pytest.fixture(params=["local", "file", "redis"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Notes, Notes]]:
    """The notes of two processes, which see each other's; of the local kind both are one process's."""
    if request.param == "local":
        local = LocalNotes(clock=lambda: 0.0)
        yield local, local
    elif request.param == "file":
        yield FileNotes(tmp_path / "notes"), FileNotes(tmp_path / "notes")
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        connections = [connect(server.url, timeout_seconds=10) for _ in range(2)]
        yield RedisNotes(connections[0]), RedisNotes(connections[1])
        for connection in connections:
            await connection.aclose()


async def test_the_first_text_stands(pair: tuple[Notes, Notes]) -> None:
    first, second = pair
    assert await first.write("key", "one", seconds=60) == "one"
    assert await second.write("key", "two", seconds=60) == "one"
    assert await second.write("another key", "two", seconds=60) == "two"


async def test_of_many_at_once_one_is_first(pair: tuple[Notes, Notes]) -> None:
    first, second = pair
    texts = await asyncio.gather(*((first, second)[n % 2].write("key", f"text {n}", seconds=60) for n in range(20)))
    assert len(set(texts)) == 1


async def test_local_notes_end_with_their_time() -> None:
    now = [0.0]
    notes = LocalNotes(clock=lambda: now[0])
    await notes.write("key", "one", seconds=60)
    now[0] = 60.0
    assert await notes.write("key", "two", seconds=60) == "two"


async def test_notes_in_files_end_with_their_time_and_leave_no_files(tmp_path: Path) -> None:
    now = [1e9]
    notes = FileNotes(tmp_path, clock=lambda: now[0])
    await notes.write("key", "one", seconds=60)
    now[0] += 60
    assert await notes.write("key", "two", seconds=60) == "two"
    await notes.aclose()
    # Whatever was left is old by then, in files' own times too.
    now[0] = 4e9
    await notes.write("another", "three", seconds=60)
    await notes.aclose()
    assert len(files(tmp_path)) == 1


async def test_a_sweep_that_fails_fails_alone(tmp_path: Path) -> None:
    """Whatever lies there, and whoever removes files at the same time."""
    now = [1e9]
    old = FileNotes(tmp_path, clock=lambda: now[0])
    await old.write("old", "one", seconds=60)
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    now[0] = 4e9
    notes = FileNotes(tmp_path, clock=lambda: now[0])
    assert await notes.write("key", "two", seconds=60) == "two"
    await notes.aclose()
    assert sorted(len(file.name) for file in files(tmp_path)) == [4, 9, 64]
    assert await notes.write("key", "three", seconds=60) == "two"


async def test_a_sweep_of_one_process_does_not_take_what_another_has_just_written(tmp_path: Path) -> None:
    """Both saw the old note; the one that comes second to remove it finds a fresh one."""
    now = [1e9]
    await FileNotes(tmp_path, clock=lambda: now[0]).write("key", "one", seconds=60)
    (file,) = files(tmp_path)
    now[0] += 60
    with file.open("r+b") as other:
        # The other process is about to replace the note, and has locked the old one.
        fcntl.flock(other, fcntl.LOCK_EX)
        late = asyncio.create_task(FileNotes(tmp_path, clock=lambda: now[0]).write("key", "late", seconds=60))
        await until_waiting_for(other)
        file.unlink()
        file.write_text(f"{now[0] + 60!r} fresh")
    assert await late == "fresh"
    assert file.read_text().endswith(" fresh")


async def until_waiting_for(file: BinaryIO) -> None:
    """Wait until somebody waits for the lock of *file*, as Linux tells it."""
    inode = f":{os.fstat(file.fileno()).st_ino} "
    async with asyncio.timeout(60):
        while not any("->" in line and inode in line for line in locks()):  # noqa: ASYNC110  # the kernel has no event
            await asyncio.sleep(0.001)


def locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


@pytest.mark.parametrize("content", [b"", b"no number", b"\xff\xfe", b"inf"])
async def test_a_damaged_file_is_no_note(tmp_path: Path, content: bytes) -> None:
    notes = FileNotes(tmp_path)
    await notes.write("key", "one", seconds=60)
    (file,) = files(tmp_path)
    file.write_bytes(content)
    assert await notes.write("key", "two", seconds=60) in {"two", ""}


async def test_names_of_files_tell_nothing(tmp_path: Path) -> None:
    await FileNotes(tmp_path).write("secret/../key", "one", seconds=60)
    (file,) = files(tmp_path)
    assert len(file.name) == 64
    assert file.stat().st_mode & 0o077 == 0


async def test_a_redis_that_is_gone_says_so() -> None:
    connection = connect("redis://127.0.0.1:1")
    with pytest.raises(StoreUnavailableError):
        await RedisNotes(connection).write("key", "one", seconds=60)
    await connection.aclose()
