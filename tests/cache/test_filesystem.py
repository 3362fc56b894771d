from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import anyio
import pytest
from anyio import to_thread

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.store import DamagedValueError
from sfumato.wire.payload import Piece
from tests.cache.contract import CAPACITY_BYTES, TENTH, Clock, StoreContract, keys_of, put

FILL = """
import anyio, sys
from pathlib import Path
from sfumato.cache.filesystem import FilesystemStore

async def main(directory, capacity):
    store = FilesystemStore(Path(directory), int(capacity))
    for number in range(150):
        key = f"key {number % 40}"
        assert await store.set(key, [key.encode(), bytes(20_000)], expires_in=600)
        value = await store.get(f"key {(number * 7) % 40}")
        assert value is None or value == f"key {(number * 7) % 40}".encode() + bytes(20_000)
    assert await store.get("from the parent") == b"hello"

anyio.run(main, *sys.argv[1:])
"""

FULL_DISK = """
import anyio, json, resource, sys
from pathlib import Path
from sfumato.cache.filesystem import FilesystemStore

async def main(directory):
    store = FilesystemStore(Path(directory), 10_000_000)
    await store.set("small", [b"value"], expires_in=None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        await store.set("large", [bytes(200_000)], expires_in=None)
    except OSError as error:
        print(json.dumps([type(error).__name__, (await store.get("small")).decode()]))

anyio.run(main, *sys.argv[1:])
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "made" / "when needed"


def everything(directory: Path) -> list[Path]:
    return list(directory.rglob("*"))


def value_files(directory: Path) -> list[Path]:
    return [path for path in everything(directory) if len(path.name) == 64]


def temp_files(directory: Path) -> list[Path]:
    return [path for path in everything(directory) if path.suffix == ".tmp"]


class HeldPieces(Sequence[bytes]):
    """A value that the writing thread waits for."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        self.reached.set()
        assert self.released.wait(10)
        return [b"value"][index]


class TestFilesystemStore(StoreContract):
    @pytest.fixture
    def store(self, directory: Path, clock: Clock) -> FilesystemStore:
        return FilesystemStore(directory, CAPACITY_BYTES, clock=clock)

    async def test_values_outlive_the_store(self, store: FilesystemStore, directory: Path, clock: Clock) -> None:
        await put(store, "key", b"value", expires_in=10)
        await store.aclose()
        later = FilesystemStore(directory, CAPACITY_BYTES, clock=clock)
        assert await later.get("key") == b"value"
        clock.advance(10)
        assert await later.get("key") is None

    async def test_nothing_is_made_before_the_first_write(
        self, store: FilesystemStore, directory: Path, tmp_path: Path
    ) -> None:
        await store.get("key")
        await store.clear()
        assert everything(tmp_path) == []
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        assert file.parent.name == file.name[:2]
        assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, file.parent, file)] == [0o700, 0o700, 0o600]

    async def test_any_flipped_byte_is_found_and_the_file_removed(
        self, store: FilesystemStore, directory: Path
    ) -> None:
        await put(store, "key", b"the value")
        (file,) = value_files(directory)
        whole = file.read_bytes()
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
            try:
                # A flip that moves the end of its time into the past is an expired file.
                assert await store.get("key") is None
                assert place in range(16, 24)
            except DamagedValueError:
                pass
            assert not file.exists()
        file.write_bytes(whole)
        assert await store.get("key") == b"the value"

    @pytest.mark.parametrize(
        "content", [b"", b"sfumato", b"\x80\x04 a pickle", b"x" * 200, b"sfumato\1" + b"\xff" * 99]
    )
    async def test_a_foreign_file_is_removed(self, store: FilesystemStore, directory: Path, content: bytes) -> None:
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        file.write_bytes(content)
        assert await keys_of(store) == []
        with pytest.raises(DamagedValueError):
            await store.get("key")
        assert not file.exists()
        assert await store.get("key") is None

    async def test_a_truncated_or_grown_file_is_removed(self, store: FilesystemStore, directory: Path) -> None:
        await put(store, "key", TENTH)
        (file,) = value_files(directory)
        whole = file.read_bytes()
        for content in (whole[:-1], whole[:40], whole[:10], whole + b"."):
            file.write_bytes(content)
            with pytest.raises(DamagedValueError):
                await store.get("key")
            assert not file.exists()

    async def test_the_file_of_another_key_is_removed(self, store: FilesystemStore, directory: Path) -> None:
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        await put(store, "kex", b"other")
        (other,) = set(value_files(directory)) - {file}
        shutil.copy(other, file)
        with pytest.raises(DamagedValueError):
            await store.get("key")
        assert await store.get("kex") == b"other"

    async def test_an_expired_file_is_removed_by_its_reader(
        self, store: FilesystemStore, directory: Path, clock: Clock
    ) -> None:
        await put(store, "key", b"value", expires_in=5)
        clock.advance(5)
        assert await store.get("key") is None
        assert value_files(directory) == []

    async def test_expired_files_nobody_reads_are_swept(
        self, store: FilesystemStore, directory: Path, clock: Clock
    ) -> None:
        await put(store, "first", TENTH)
        for number in range(3):
            await put(store, f"key {number}", b"value", expires_in=5)
        clock.advance(3600)
        await put(store, "last", TENTH)
        assert len(value_files(directory)) == 2
        assert (await store.stats()).evictions == 0

    async def test_a_directory_below_a_file_is_an_os_error(self, tmp_path: Path, clock: Clock) -> None:
        # Permissions do not bind root, under which these tests may run; a file in the way binds everybody.
        (tmp_path / "file").write_bytes(b"in the way")
        store = FilesystemStore(tmp_path / "file" / "cache", CAPACITY_BYTES, clock=clock)
        with pytest.raises(OSError, match="Not a directory"):
            await store.get("key")
        with pytest.raises(OSError, match="Not a directory"):
            await put(store, "key", b"value")
        with pytest.raises(OSError, match="Not a directory"):
            await store.stats()
        assert (tmp_path / "file").read_bytes() == b"in the way"

    async def test_a_directory_in_a_values_place_is_an_os_error(self, store: FilesystemStore, directory: Path) -> None:
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        file.unlink()
        file.mkdir()
        with pytest.raises(IsADirectoryError):
            await store.get("key")
        with pytest.raises(IsADirectoryError):
            await put(store, "key", b"value")
        assert temp_files(directory) == []

    async def test_a_deleted_directory_is_made_again(self, store: FilesystemStore, directory: Path) -> None:
        await put(store, "key", b"value")
        shutil.rmtree(directory)
        assert await store.get("key") is None
        assert await keys_of(store) == []
        assert (await store.stats()).entries == 0
        await put(store, "key", b"value")
        assert await store.get("key") == b"value"

    async def test_a_full_disk_leaves_nothing_half_written(self, directory: Path) -> None:
        done = await anyio.run_process([sys.executable, "-c", FULL_DISK, str(directory)], stderr=None)
        assert json.loads(done.stdout) == ["OSError", "value"]
        assert len(value_files(directory)) == 1
        assert temp_files(directory) == []

    async def test_only_stale_temporary_files_are_swept(
        self, store: FilesystemStore, directory: Path, clock: Clock
    ) -> None:
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        stale, fresh = (file.with_name(f"{file.name}.{name}.tmp") for name in ("stale_1", "fresh_1"))
        for temp, age in ((stale, 3600), (fresh, 5)):
            temp.write_bytes(TENTH)
            os.utime(temp, (clock.now - age, clock.now - age))
        await put(store, "other", TENTH)
        assert temp_files(directory) == [fresh]

    async def test_files_that_are_not_ours_stay(self, store: FilesystemStore, directory: Path, clock: Clock) -> None:
        await put(store, "key", TENTH)
        foreign = [directory / "notes.txt", directory / "ab", directory / value_files(directory)[0].parent / "x.tmp"]
        for path in foreign:
            path.write_bytes(TENTH)
            os.utime(path, (0, 0))
        for number in range(20):
            clock.advance(1)
            await put(store, f"key {number}", TENTH)
        await store.clear()
        assert all(path.exists() for path in foreign)

    async def test_eviction_goes_below_the_budget_at_once(self, store: FilesystemStore, clock: Clock) -> None:
        for number in range(10):
            clock.advance(1)
            await put(store, f"key {number}", TENTH)
        stats = await store.stats()
        assert stats.size_bytes <= CAPACITY_BYTES * 0.9
        assert stats.evictions == 2

    async def test_who_finds_another_evicting_gives_way(
        self, store: FilesystemStore, directory: Path, clock: Clock
    ) -> None:
        fcntl = pytest.importorskip("fcntl")
        await put(store, "key", b"value")
        with (directory / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for number in range(12):
                clock.advance(1)
                assert await put(store, f"key {number}", TENTH)
            assert (await store.stats()).entries == 13
        await put(store, "key", b"value")
        assert (await store.stats()).size_bytes <= CAPACITY_BYTES

    async def test_processes_share_a_directory(self, directory: Path) -> None:
        capacity = 400_000
        store = FilesystemStore(directory, capacity)
        await put(store, "from the parent", b"hello")
        running = 2

        async def run() -> None:
            nonlocal running
            await anyio.run_process([sys.executable, "-c", FILL, str(directory), str(capacity)], stderr=None)
            running -= 1

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            group.start_soon(run)
            # Whoever uses a value keeps it: this one is never the least recently used.
            while running:
                assert await store.get("from the parent") == b"hello"
        assert temp_files(directory) == []
        assert (await store.stats()).size_bytes <= capacity * (1 + 2 / 64)
        # One more write of a look's size sees what the others wrote.
        await put(store, "last", bytes(10_000))
        assert (await store.stats()).size_bytes <= capacity

    async def test_a_cancelled_caller_leaves_no_temporary_file(self, store: FilesystemStore, directory: Path) -> None:
        pieces = HeldPieces()
        async with anyio.create_task_group() as group:
            group.start_soon(put_pieces, store, pieces)
            await to_thread.run_sync(pieces.reached.wait)
            group.cancel_scope.cancel()
            pieces.released.set()
        assert temp_files(directory) == []
        assert await store.get("key") == b"value"

    async def test_a_cancelled_task_leaves_no_temporary_file(self, store: FilesystemStore, directory: Path) -> None:
        pieces = HeldPieces()
        task = asyncio.create_task(put_pieces(store, pieces))
        await to_thread.run_sync(pieces.reached.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pieces.released.set()
        with anyio.fail_after(10):
            while await store.get("key") is None:
                await anyio.lowlevel.checkpoint()
        assert temp_files(directory) == []


async def put_pieces(store: FilesystemStore, pieces: Sequence[Piece]) -> None:
    await store.set("key", pieces, expires_in=None)
