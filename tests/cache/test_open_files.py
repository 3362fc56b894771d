from __future__ import annotations

import os
import threading
import time
import tracemalloc
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.image_cache import CacheFault, ImageCache
from sfumato.cache.open_files import FileValue
from sfumato.cache.store import DamagedValueError
from sfumato.wire.payload import raw_bytes
from tests.cache.contract import TENTH, Clock, put, sample_image, sample_request

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> FilesystemStore:
    return FilesystemStore(tmp_path, 100_000_000, clock=clock)


@pytest.fixture
def faults() -> list[CacheFault]:
    return []


@pytest.fixture
def cache(store: FilesystemStore, clock: Clock, faults: list[CacheFault]) -> ImageCache:
    return ImageCache(store, ttl_seconds=3600, clock=clock, on_fault=faults.append)


def only_file(directory: Path) -> Path:
    (file,) = [path for path in directory.rglob("*") if len(path.name) == 64]
    return file


def flip_last_byte(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last[0] ^ 1]))


def descriptors_of(file: Path) -> int:
    directory = Path("/proc/self/fd")
    if not directory.exists():
        pytest.skip("this system does not list descriptors")
    return sum(path.exists() and path.samefile(file) for path in directory.iterdir())


async def closed(file: Path) -> None:
    """Wait until nobody has a file open: the event loop and its threads let go of what they had last in their time."""
    with anyio.fail_after(60):
        while descriptors_of(file):
            await anyio.lowlevel.checkpoint()


async def large(store: FilesystemStore, key: str = "key") -> FileValue:
    value = await store.get(key)
    assert isinstance(value, FileValue)
    return value


class Check:
    """A check that every value passes, and that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.mark.parametrize("hits", [0, 1, 3])
@pytest.mark.parametrize("times_put_back", [False, True])
async def test_damage_is_found_however_often_the_picture_was_served_before(
    cache: ImageCache, clock: Clock, faults: list[CacheFault], tmp_path: Path, *, hits: int, times_put_back: bool
) -> None:
    request = sample_request()
    await cache.store(request, sample_image(TENTH))
    for _ in range(hits):
        clock.advance(0.7)
        hit = await cache.lookup(request, 0)
        assert hit is not None
        assert raw_bytes(hit.picture) == TENTH
    file = only_file(tmp_path)
    before = file.stat()
    flip_last_byte(file)
    if times_put_back:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await cache.lookup(request, 0) is None
    assert faults == [CacheFault("lookup", "damaged")]
    assert not file.exists()


async def test_a_checked_file_is_not_checked_again_for_its_use(store: FilesystemStore, clock: Clock) -> None:
    await put(store, "key", TENTH)
    check = Check()
    for seconds in (0, 0.5, 0.6, 10, 3600):
        clock.advance(seconds)
        (await large(store)).vouch(check)
    assert check.count == 1


async def test_what_another_process_notes_costs_one_check(store: FilesystemStore, clock: Clock, tmp_path: Path) -> None:
    await put(store, "key", TENTH)
    check = Check()
    (await large(store)).vouch(check)
    other = FilesystemStore(tmp_path, 100_000_000, clock=clock)
    clock.advance(5)
    assert not (await large(other)).vouched
    for _ in range(3):
        (await large(store)).vouch(check)
    assert check.count == 2


async def test_times_of_the_kernel_s_clock_are_not_trusted(tmp_path: Path) -> None:
    """Two writes within a tick of that clock leave the same times."""
    store = FilesystemStore(tmp_path, 100_000_000, clock=Clock(time.time()))
    await put(store, "key", TENTH)
    file = only_file(tmp_path)
    file.write_bytes(file.read_bytes())
    check = Check()
    for _ in range(3):
        (await large(store)).vouch(check)
    assert check.count == 3


async def test_what_changes_during_its_check_is_checked_again(store: FilesystemStore, tmp_path: Path) -> None:
    await put(store, "key", TENTH)
    value = await large(store)
    value.vouch(lambda: flip_last_byte(only_file(tmp_path)))
    assert not (await large(store)).vouched


async def test_of_many_readers_one_checks(store: FilesystemStore) -> None:
    await put(store, "key", TENTH)
    values = [await large(store) for _ in range(6)]
    began, ended, check = threading.Event(), threading.Event(), Check()

    def slow_check() -> None:
        check()
        began.set()
        assert ended.wait(60)

    async with anyio.create_task_group() as group:
        group.start_soon(to_thread.run_sync, values[0].vouch, slow_check)
        await to_thread.run_sync(began.wait)
        for value in values[1:]:
            group.start_soon(to_thread.run_sync, value.vouch, check)
        ended.set()
    assert check.count == 1
    assert all(value.vouched for value in values)


async def test_a_failed_check_is_everybody_s(store: FilesystemStore) -> None:
    await put(store, "key", TENTH)

    def fail() -> None:
        raise DamagedValueError

    for _ in range(2):
        with pytest.raises(DamagedValueError):
            (await large(store)).vouch(fail)
    assert not (await large(store)).vouched


async def test_a_lookup_holds_no_picture(cache: ImageCache) -> None:
    await cache.store(sample_request(), sample_image(TENTH * 10))
    tracemalloc.start()
    try:
        for _ in range(2):
            hit = await cache.lookup(sample_request(), 0)
            assert hit is not None
            assert len(hit.picture.raw or b"") == len(TENTH) * 10
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000, "4 MB are looked at in steps, if at all"


async def test_readers_share_a_descriptor_and_the_last_one_closes_it(store: FilesystemStore, tmp_path: Path) -> None:
    await put(store, "key", TENTH)
    file = only_file(tmp_path)
    values = [await large(store) for _ in range(20)]
    assert descriptors_of(file) == 1
    del values[:-1]
    assert descriptors_of(file) == 1
    # Read outside of an assertion: pytest keeps what it has seen there.
    data = values.pop().read(0, len(TENTH))
    assert data == TENTH
    await closed(file)
    data = (await large(store)).read(5, 9)
    assert data == TENTH[5:9]
    await closed(file)


async def test_a_new_file_in_the_place_of_one_being_read_is_another(store: FilesystemStore) -> None:
    await put(store, "key", TENTH)
    old = await large(store)
    old.vouch(Check())
    await put(store, "key", TENTH[::-1])
    new = await large(store)
    assert not new.vouched
    assert (old.read(0, 9), new.read(0, 9)) == (TENTH[:9], TENTH[::-1][:9])


async def test_a_file_cut_short_while_it_is_read_is_an_error(store: FilesystemStore, tmp_path: Path) -> None:
    await put(store, "key", TENTH)
    value = await large(store)
    os.truncate(only_file(tmp_path), 300_000)
    assert value.read(0, 200_000) == TENTH[:200_000]
    assert value.read_now(200_000, 400_000) is None
    with pytest.raises(OSError, match="cut short"):
        value.read(200_000, 400_000)


async def test_what_is_in_memory_is_had_at_once_and_nothing_else_is_waited_for(store: FilesystemStore) -> None:
    await put(store, "key", TENTH)
    value = await large(store)
    # Its beginning is read with its head; of the rest not every file system can tell.
    assert value.read_now(0, 4000) == TENTH[:4000]
    assert value.read_now(100_000, 200_000) in (TENTH[100_000:200_000], None)
