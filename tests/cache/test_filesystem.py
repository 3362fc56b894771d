from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import anyio
import pytest
from anyio import to_thread

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.image_cache import CacheFault, ImageCache
from sfumato.cache.store import DamagedValueError
from sfumato.wire.payload import Piece
from tests.cache.contract import (
    CAPACITY_BYTES,
    READS,
    TENTH,
    Clock,
    Read,
    StoreContract,
    keys_of,
    put,
    sample_image,
    sample_request,
)

FILL = """
import anyio, sys
from pathlib import Path
from sfumato.cache.filesystem import FilesystemStore

async def main(directory, capacity):
    store = FilesystemStore(Path(directory), int(capacity))
    for number in range(150):
        key = f"key {number % 40}"
        await store.set(key, [key.encode(), bytes(20_000)], expires_in=600)
        value = await store.get(f"key {(number * 7) % 40}")
        assert value is None or value == f"key {(number * 7) % 40}".encode() + bytes(20_000)
        # Whoever uses a value keeps it: this one is never the least recently used.
        assert await store.get("from the parent") == b"hello"

anyio.run(main, *sys.argv[1:])
"""

LIMITED = """
import anyio, json, resource, sys
from pathlib import Path
from sfumato.cache.filesystem import FilesystemStore

async def main(directory):
    store = FilesystemStore(Path(directory), 10_000_000)
    await store.set("small", [b"value"], expires_in=None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        await store.set("large", [bytes(200_000)], expires_in=None)
    except OSError as error:
        print(json.dumps([type(error).__name__, (await store.get("small")).decode()]))
    # What measures this process's coverage writes its file at the end.
    resource.setrlimit(resource.RLIMIT_FSIZE, before)

anyio.run(main, *sys.argv[1:])
"""

# The kernel itself kills whoever writes past its limit, in the middle of the write.
KILLED = """
import anyio, resource, signal, sys
from pathlib import Path
from sfumato.cache.filesystem import FilesystemStore

async def main(directory):
    store = FilesystemStore(Path(directory), 10_000_000)
    await store.set("whole", [b"value"], expires_in=None)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    await store.set("torn", [bytes(200_000)], expires_in=None)

anyio.run(main, *sys.argv[1:])
"""

# Prints, for each step, what a lookup or a store gave and the faults that were counted.
MOUNTED = """
import anyio, json, subprocess, sys
from pathlib import Path
from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.image_cache import ImageCache
from tests.cache.contract import Clock, sample_image, sample_request

async def main(directory):
    faults, steps = [], []
    store = FilesystemStore(Path(directory) / "cache", 100_000_000, clock=Clock())
    cache = ImageCache(store, ttl_seconds=60, clock=Clock(), on_fault=faults.append)

    def note(result):
        steps.append([bool(result), [f"{fault.operation} {fault.reason}" for fault in faults]])
        faults.clear()

    note(await cache.store(sample_request("small"), sample_image()))
    note(await cache.store(sample_request("large"), sample_image(bytes(4_000_000))))
    note(await cache.lookup(sample_request("large"), 0))
    note(await cache.lookup(sample_request("small"), 0))
    note(await cache.store(sample_request("other"), sample_image()))
    subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
    note(await cache.lookup(sample_request("small"), 0))
    note(await cache.store(sample_request("small"), sample_image()))
    note(await cache.lookup(sample_request("other"), 0))
    temps = [path.name for path in Path(directory).rglob("*.tmp")]
    print(json.dumps({"steps": steps, "temps": temps}))

anyio.run(main, *sys.argv[1:])
"""
# A file system of 2 MB that only the command itself sees, so that nothing needs to be cleaned up.
MOUNT = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o size=2m none "$0" && exec "$@"',
]


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


def mounting_is_permitted(directory: Path) -> bool:
    try:
        done = subprocess.run([*MOUNT, str(directory), "true"], capture_output=True, check=False, timeout=120)
    except OSError:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def filling(directory: Path, capacity: int, *, processes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-c", FILL, str(directory), str(capacity)]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(subprocess.Popen(command)) for _ in range(processes)]
        for writer in writers:
            stack.callback(writer.kill)
        yield writers


@contextlib.contextmanager
def paused(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGSTOP)
    try:
        for process in running:
            # Until it is stopped, or has ended before.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        yield
    finally:
        for process in running:
            process.send_signal(signal.SIGCONT)


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
        assert self.released.wait(60)
        return [b"value"][index]


class TestFilesystemStore(StoreContract):
    @pytest.fixture
    def store(self, directory: Path, clock: Clock) -> FilesystemStore:
        return FilesystemStore(directory, CAPACITY_BYTES, clock=clock)

    @pytest.fixture
    def faults(self) -> list[CacheFault]:
        return []

    @pytest.fixture
    def cache(self, store: FilesystemStore, clock: Clock, faults: list[CacheFault]) -> ImageCache:
        return ImageCache(store, ttl_seconds=3600, clock=clock, on_fault=faults.append)

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

    async def test_a_flipped_byte_before_the_value_is_found_and_the_file_removed(
        self, store: FilesystemStore, directory: Path
    ) -> None:
        await put(store, "key", b"the value")
        (file,) = value_files(directory)
        whole = file.read_bytes()
        for place in range(len(whole) - len(b"the value")):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
            with pytest.raises(DamagedValueError):
                await store.get("key")
            assert not file.exists()
        file.write_bytes(whole)
        assert await store.get("key") == b"the value"

    async def test_a_flipped_byte_anywhere_is_a_miss_and_a_fault(
        self, cache: ImageCache, faults: list[CacheFault], directory: Path
    ) -> None:
        """The store sums up what stands before a value, and the entry its picture: nothing is left out."""
        await cache.store(sample_request(), sample_image())
        (file,) = value_files(directory)
        whole = file.read_bytes()
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
            assert await cache.lookup(sample_request(), 0) is None
            assert not file.exists()
            assert faults == [CacheFault("lookup", "damaged")]
            faults.clear()
        file.write_bytes(whole)
        assert await cache.lookup(sample_request(), 0) is not None

    @pytest.mark.parametrize(
        "content", [b"", b"sfumato", b"\x80\x04 a pickle", b"x" * 200, b"sfumato\1" + b"\xff" * 99]
    )
    @READS
    async def test_a_foreign_file_is_removed(
        self, store: FilesystemStore, directory: Path, content: bytes, read: Read
    ) -> None:
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        file.write_bytes(content)
        assert await keys_of(store) == []
        with pytest.raises(DamagedValueError):
            await read(store, "key")
        assert not file.exists()
        assert await store.get("key") is None

    @READS
    async def test_a_truncated_or_grown_file_is_removed(
        self, store: FilesystemStore, directory: Path, read: Read
    ) -> None:
        await put(store, "key", TENTH)
        (file,) = value_files(directory)
        whole = file.read_bytes()
        for content in (whole[:-1], whole[:40], whole[:10], whole + b"."):
            file.write_bytes(content)
            with pytest.raises(DamagedValueError):
                await read(store, "key")
            assert not file.exists()

    @READS
    async def test_the_file_of_another_key_is_removed(
        self, store: FilesystemStore, directory: Path, read: Read
    ) -> None:
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        await put(store, "kex", b"other")
        (other,) = set(value_files(directory)) - {file}
        shutil.copy(other, file)
        with pytest.raises(DamagedValueError):
            await read(store, "key")
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

    async def test_a_write_that_is_refused_leaves_nothing_half_written(self, directory: Path) -> None:
        done = await anyio.run_process([sys.executable, "-c", LIMITED, str(directory)], stderr=None)
        assert json.loads(done.stdout) == ["OSError", "value"]
        assert len(value_files(directory)) == 1
        assert temp_files(directory) == []

    async def test_a_full_disk_and_a_read_only_one_are_misses_and_faults(self, tmp_path: Path) -> None:
        if not mounting_is_permitted(tmp_path):
            pytest.skip("mounting a small disk is not permitted here")
        command = [*MOUNT, str(tmp_path), sys.executable, "-c", MOUNTED, str(tmp_path)]
        done = await anyio.run_process(command, stderr=None)
        assert json.loads(done.stdout) == {
            "steps": [
                [True, []],
                [False, ["store ENOSPC"]],
                [False, []],
                [True, []],
                [True, []],
                # A disk that has become read-only still serves.
                [True, []],
                [False, ["store EROFS"]],
                [True, []],
            ],
            "temps": [],
        }

    async def test_a_damaged_place_is_a_miss_and_a_fault(
        self, cache: ImageCache, faults: list[CacheFault], directory: Path
    ) -> None:
        """Truncated, foreign, in the way, or gone: the request goes on, and the next picture is kept again."""

        def truncate(file: Path) -> None:
            os.truncate(file, file.stat().st_size - 1)

        def empty(file: Path) -> None:
            os.truncate(file, 0)

        def replace(file: Path) -> None:
            file.write_bytes(b"GIF89a is no entry")

        def remove(_: Path) -> None:
            shutil.rmtree(directory)

        for damage, told in ((truncate, 1), (empty, 1), (replace, 1), (remove, 0)):
            assert await cache.store(sample_request(), sample_image(TENTH))
            (file,) = value_files(directory)
            damage(file)
            assert await cache.lookup(sample_request(), 0) is None
            assert not file.exists()
            assert faults == [CacheFault("lookup", "damaged")] * told
            faults.clear()

    async def test_a_clock_set_back_is_a_miss_and_a_fault_and_does_not_stop_the_sweeps(
        self, cache: ImageCache, store: FilesystemStore, faults: list[CacheFault], directory: Path, clock: Clock
    ) -> None:
        await cache.store(sample_request(), sample_image())
        clock.advance(-86_400)
        assert await cache.lookup(sample_request(), 0) is None
        assert faults == [CacheFault("lookup", "clock")]
        await put(store, "short", b"value", expires_in=5)
        clock.advance(3600)
        await put(store, "last", b"value")
        assert len(value_files(directory)) == 2

    async def test_a_writer_killed_on_the_way_leaves_a_temporary_file_until_the_next_sweep(
        self, directory: Path
    ) -> None:
        done = await anyio.run_process([sys.executable, "-c", KILLED, str(directory)], check=False)
        assert done.returncode == -signal.SIGXFSZ
        assert len(temp_files(directory)) == 1
        store = FilesystemStore(directory, CAPACITY_BYTES)
        assert await store.get("whole") == b"value"
        assert await store.get("torn") is None
        await FilesystemStore(directory, CAPACITY_BYTES, clock=lambda: time.time() + 1000).stats()
        assert temp_files(directory) == []
        assert await keys_of(store) == ["whole"]

    async def test_only_stale_temporary_files_are_swept(
        self, store: FilesystemStore, directory: Path, clock: Clock
    ) -> None:
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        clock.advance(3600)
        stale, fresh = (file.with_name(f"{file.name}.{name}.tmp") for name in ("stale_1", "fresh_1"))
        for temp, age in ((stale, 3600), (fresh, 5)):
            temp.write_bytes(TENTH)
            os.utime(temp, (clock.now - age, clock.now - age))
        await put(store, "other", TENTH)
        assert temp_files(directory) == [fresh]

    async def test_what_is_being_written_counts(self, store: FilesystemStore, directory: Path, clock: Clock) -> None:
        await put(store, "key", b"value")
        (file,) = value_files(directory)
        file.with_name(f"{file.name}.others.tmp").write_bytes(TENTH * 5)
        # Without it the next writer looks.
        (directory / "tally").unlink()
        for number in range(6):
            clock.advance(1)
            await put(store, f"key {number}", TENTH)
        assert (await store.stats()).size_bytes <= CAPACITY_BYTES / 2

    @pytest.mark.parametrize("tally", [b"", bytes(900)])
    async def test_a_wrong_tally_is_set_right(
        self, store: FilesystemStore, directory: Path, clock: Clock, tally: bytes
    ) -> None:
        for number in range(8):
            await put(store, f"key {number}", TENTH)
        (directory / "tally").write_bytes(tally)
        clock.advance(3600)
        for number in range(3):
            clock.advance(1)
            assert await put(store, f"new {number}", TENTH)
        stats = await store.stats()
        assert (stats.entries, stats.evictions) == (8, 3)
        assert stats.size_bytes <= (directory / "tally").stat().st_size * 4096 <= CAPACITY_BYTES

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
        assert stats.size_bytes <= CAPACITY_BYTES * 0.85
        assert stats.evictions == 2

    async def test_who_finds_another_evicting_gives_way_within_the_budget(
        self, store: FilesystemStore, directory: Path, clock: Clock
    ) -> None:
        fcntl = pytest.importorskip("fcntl")
        await put(store, "key", b"value")
        with (directory / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = []
            for number in range(12):
                clock.advance(1)
                kept.append(await put(store, f"key {number}", TENTH))
            assert kept == [True] * 9 + [False] * 3
            assert (await store.stats()).size_bytes <= CAPACITY_BYTES
        assert await put(store, "last", TENTH)
        assert (await store.stats()).evictions >= 1

    async def test_processes_share_a_directory(self, directory: Path) -> None:
        capacity = 400_000
        store = FilesystemStore(directory, capacity)
        await put(store, "from the parent", b"hello")
        with filling(directory, capacity, processes=2) as writers:
            while any(writer.poll() is None for writer in writers):
                assert await store.get("from the parent") == b"hello"
                # A look at a directory that changes meanwhile may find both a value and what it made room for.
                with paused(writers):
                    assert (await store.stats()).size_bytes <= capacity
        assert [writer.returncode for writer in writers] == [0, 0]
        assert temp_files(directory) == []

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
        with anyio.fail_after(60):
            while await store.get("key") is None:
                await anyio.lowlevel.checkpoint()
        assert temp_files(directory) == []


async def put_pieces(store: FilesystemStore, pieces: Sequence[Piece]) -> None:
    await store.set("key", pieces, expires_in=None)
