from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.image_cache import CacheFault, ImageCache
from sfumato.cache.memory import MemoryStore, MemoryValue
from sfumato.cache.noop import NoopStore
from sfumato.cache.store import Store, StoreStats
from sfumato.images.request import CacheControl, ImageRequest
from sfumato.wire.payload import Piece, raw_bytes
from tests.cache.contract import Clock, keys_of, sample_image, sample_request

TTL_SECONDS = 3600.0
LARGE = bytes(range(256)) * 4096

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faults() -> list[CacheFault]:
    return []


@pytest.fixture(params=["memory", "filesystem"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Store:
    if request.param == "memory":
        return MemoryStore(10_000_000, timer=clock)
    return FilesystemStore(tmp_path, 10_000_000, clock=clock)


@pytest.fixture
def cache(store: Store, clock: Clock, faults: list[CacheFault]) -> ImageCache:
    return ImageCache(store, ttl_seconds=TTL_SECONDS, clock=clock, on_fault=faults.append)


class FaultyStore:
    """A store that fails with whatever error it is given, and works while it is given none."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.calls = 0
        self.held = MemoryStore(1_000_000)

    def fail(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error

    async def get(self, key: str) -> bytes | MemoryValue | None:
        self.fail()
        return await self.held.get(key)

    async def peek(self, key: str, size: int) -> bytes | None:
        self.fail()
        return await self.held.peek(key, size)

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        self.fail()
        return await self.held.set(key, value, expires_in=expires_in)

    async def delete(self, key: str) -> bool:
        self.fail()
        return await self.held.delete(key)

    async def clear(self) -> int:
        self.fail()
        return await self.held.clear()

    async def keys(self) -> AsyncIterator[str]:
        self.fail()
        async for key in self.held.keys():
            yield key

    async def stats(self) -> StoreStats:
        self.fail()
        return await self.held.stats()

    async def aclose(self) -> None:
        self.fail()


def wishing(**control: Any) -> ImageRequest:
    return sample_request(cache_control=CacheControl(**control))


@pytest.mark.parametrize("raw", [b"\xff\xd8 a picture", LARGE], ids=["small", "large"])
async def test_cache_hit(cache: ImageCache, clock: Clock, raw: bytes) -> None:
    request, image = sample_request(), sample_image(raw)
    assert await cache.store(request, image)
    clock.advance(90.5)
    hit = await cache.lookup(request, 0)
    assert hit is not None
    assert raw_bytes(hit.picture) == raw
    assert (hit.picture.mime_type, hit.picture.width, hit.picture.height) == ("image/jpeg", 5504, 3072)
    assert (hit.slot, hit.usage, hit.price_usd, hit.created) == (0, image.usage, image.price_usd, image.created)
    assert (hit.age_seconds, hit.cost_usd) == (90.5, 0.0)


async def test_cache_miss(cache: ImageCache, faults: list[CacheFault]) -> None:
    assert await cache.lookup(sample_request(), 0) is None
    stats = await cache.stats()
    assert (stats.lookups, stats.hits, stats.misses, stats.hit_rate) == (1, 0, 1, 0.0)
    assert faults == []


async def test_ttl_expiration(cache: ImageCache, clock: Clock) -> None:
    request = sample_request()
    await cache.store(request, sample_image())
    clock.advance(TTL_SECONDS - 1)
    assert await cache.lookup(request, 0) is not None
    clock.advance(1)
    assert await cache.lookup(request, 0) is None


async def test_cache_eviction(clock: Clock) -> None:
    cache = ImageCache(MemoryStore(len(LARGE) * 3, timer=clock), ttl_seconds=TTL_SECONDS, clock=clock)
    prompts = [f"picture {number}" for number in range(5)]
    for prompt in prompts:
        assert await cache.store(sample_request(prompt), sample_image(LARGE))
    found = [await cache.lookup(sample_request(prompt), 0) is not None for prompt in prompts]
    assert found == [False, False, False, True, True]
    held = (await cache.stats()).store
    assert held is not None
    assert (held.entries, held.evictions) == (2, 3)


def test_cache_key_generation() -> None:
    cache = ImageCache(NoopStore(), ttl_seconds=TTL_SECONDS)
    key = cache.key(sample_request(quality="hd", style="vivid"), 2)
    family, variant, quality, style, digest, slot = key.split(":")
    assert (family, variant) == ("img", "gemini-3-pro-image-4k-16x9")
    assert (quality, style, slot, len(digest)) == ("hd", "vivid", "2", 64)
    assert key == cache.key(sample_request(quality="hd", style="Vivid", response_format="url"), 2)


def test_different_prompts_different_keys() -> None:
    cache = ImageCache(NoopStore(), ttl_seconds=TTL_SECONDS)
    assert cache.key(sample_request("a lighthouse"), 0) != cache.key(sample_request("a Lighthouse"), 0)
    assert cache.key(sample_request(), 0) != cache.key(sample_request(), 1)


def test_tenants_share_keys_only_in_the_global_scope() -> None:
    one, other = sample_request(tenant="one"), sample_request(tenant="other")
    shared = ImageCache(NoopStore(), ttl_seconds=TTL_SECONDS)
    scoped = ImageCache(NoopStore(), ttl_seconds=TTL_SECONDS, scope="tenant")
    assert shared.key(one, 0) == shared.key(other, 0) == shared.key(sample_request(), 0)
    assert len({scoped.key(one, 0), scoped.key(other, 0), scoped.key(sample_request(), 0)}) == 3


async def test_slots_are_entries_of_their_own(cache: ImageCache) -> None:
    request = sample_request(n=4)
    for slot in (0, 1):
        await cache.store(request, sample_image(b"%d" % slot, slot=slot))
    found = [await cache.lookup(request, slot) for slot in range(4)]
    assert [image and (image.slot, image.picture.raw) for image in found] == [(0, b"0"), (1, b"1"), None, None]
    stats = await cache.stats()
    assert (stats.lookups, stats.hits, stats.misses, stats.hit_rate) == (4, 2, 2, 0.5)


async def test_a_seeded_picture_answers_any_slot_of_its_seed(cache: ImageCache) -> None:
    await cache.store(sample_request(n=3, seed=5), sample_image(slot=2))
    hit = await cache.lookup(sample_request(seed=7), 0)
    assert hit is not None
    assert hit.slot == 0


async def test_a_picture_from_the_cache_is_not_stored_again(cache: ImageCache, clock: Clock) -> None:
    request = sample_request()
    await cache.store(request, sample_image())
    clock.advance(TTL_SECONDS - 1)
    hit = await cache.lookup(request, 0)
    assert hit is not None
    assert await cache.store(request, hit) is False
    clock.advance(1)
    assert await cache.lookup(request, 0) is None


async def test_no_cache_passes_the_store_by_and_still_stores() -> None:
    store = FaultyStore(None)
    cache = ImageCache(store, ttl_seconds=TTL_SECONDS, clock=Clock())
    request = wishing(no_cache=True)
    assert await cache.lookup(request, 0) is None
    assert store.calls == 0
    assert await cache.store(request, sample_image())
    assert await cache.lookup(sample_request(), 0) is not None
    assert (await cache.stats()).lookups == 1


async def test_no_store_is_answered_from_the_cache_and_not_stored(cache: ImageCache) -> None:
    request = wishing(no_store=True)
    assert cache.ttl_seconds(request) is None
    assert await cache.store(request, sample_image()) is False
    assert await cache.lookup(request, 0) is None
    await cache.store(sample_request(), sample_image())
    assert await cache.lookup(request, 0) is not None


async def test_a_request_names_its_own_ttl(cache: ImageCache, clock: Clock) -> None:
    request = wishing(ttl_seconds=10.0)
    assert cache.ttl_seconds(request) == 10.0
    assert await cache.store(request, sample_image())
    clock.advance(10)
    assert await cache.lookup(request, 0) is None


@pytest.mark.parametrize("ttl_seconds", [0.0, -1.0, float("inf"), float("nan")])
async def test_a_ttl_that_is_no_time_is_not_stored(cache: ImageCache, store: Store, ttl_seconds: float) -> None:
    assert await cache.store(wishing(ttl_seconds=ttl_seconds), sample_image()) is False
    assert await keys_of(store) == []


async def test_max_age_takes_only_young_answers_and_keeps_the_others(cache: ImageCache, clock: Clock) -> None:
    await cache.store(sample_request(), sample_image())
    assert await cache.lookup(wishing(max_age_seconds=0.0), 0) is None
    clock.advance(60)
    assert await cache.lookup(wishing(max_age_seconds=59.0), 0) is None
    assert await cache.lookup(wishing(max_age_seconds=60.0), 0) is not None


async def test_an_entry_older_than_its_own_time_is_a_miss_whatever_the_store_says(clock: Clock) -> None:
    cache = ImageCache(MemoryStore(1_000_000, timer=lambda: 0.0), ttl_seconds=TTL_SECONDS, clock=clock)
    await cache.store(sample_request(), sample_image())
    clock.advance(TTL_SECONDS)
    assert await cache.lookup(sample_request(), 0) is None


async def test_a_slightly_slow_clock_gives_age_zero(cache: ImageCache, clock: Clock) -> None:
    await cache.store(sample_request(), sample_image(created=clock.now + 2))
    hit = await cache.lookup(sample_request(), 0)
    assert hit is not None
    assert hit.age_seconds == 0.0


async def test_a_clock_set_back_is_a_miss_and_a_fault(
    cache: ImageCache, clock: Clock, faults: list[CacheFault]
) -> None:
    await cache.store(sample_request(), sample_image())
    clock.advance(-86_400)
    assert await cache.lookup(sample_request(), 0) is None
    assert faults == [CacheFault("lookup", "clock")]


async def test_a_damaged_entry_is_removed_counted_and_missed(
    cache: ImageCache, store: Store, faults: list[CacheFault]
) -> None:
    request = sample_request()
    await store.set(cache.key(request, 0), [b"foreign bytes"], expires_in=None)
    assert await cache.lookup(request, 0) is None
    assert await keys_of(store) == []
    assert faults == [CacheFault("lookup", "damaged")]
    assert (await cache.stats()).faults == 1
    await cache.store(request, sample_image())
    assert await cache.lookup(request, 0) is not None


async def test_a_flipped_byte_on_the_disk_is_removed_counted_and_missed(
    tmp_path: Path, clock: Clock, faults: list[CacheFault]
) -> None:
    cache = ImageCache(
        FilesystemStore(tmp_path, 10_000_000, clock=clock), ttl_seconds=60, clock=clock, on_fault=faults.append
    )
    await cache.store(sample_request(), sample_image(LARGE))
    (path,) = [path async for path in anyio.Path(tmp_path).rglob("*") if len(path.name) == 64]
    data = bytearray(await path.read_bytes())
    data[-1] ^= 1
    await path.write_bytes(data)
    assert await cache.lookup(sample_request(), 0) is None
    assert faults == [CacheFault("lookup", "damaged")]
    assert not await path.exists()


async def test_the_entry_of_another_key_is_never_served(
    cache: ImageCache, store: Store, faults: list[CacheFault]
) -> None:
    await cache.store(sample_request("one"), sample_image())
    data = await store.get(cache.key(sample_request("one"), 0))
    await store.set(cache.key(sample_request("other"), 0), [data or b""], expires_in=None)
    assert await cache.lookup(sample_request("other"), 0) is None
    assert faults == [CacheFault("lookup", "damaged")]
    assert await cache.lookup(sample_request("one"), 0) is not None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/secret/path"), "ENOSPC"),
        (OSError("without a number"), "OSError"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("redis://user:secret@host"), "RuntimeError"),
        (MemoryError(), "MemoryError"),
    ],
)
async def test_no_fault_fails_a_request(error: Exception, reason: str, faults: list[CacheFault]) -> None:
    cache = ImageCache(FaultyStore(error), ttl_seconds=TTL_SECONDS, on_fault=faults.append)
    assert await cache.lookup(sample_request(), 0) is None
    assert await cache.store(sample_request(), sample_image()) is False
    assert await cache.invalidate("key") is None
    assert await cache.clear() is None
    stats = await cache.stats()
    assert (stats.lookups, stats.misses, stats.faults, stats.store) == (1, 1, 5, None)
    await cache.aclose()
    operations = ["lookup", "store", "invalidate", "clear", "stats", "close"]
    assert [(fault.operation, fault.reason) for fault in faults] == [(name, reason) for name in operations]


async def test_an_unusable_directory_fails_no_request(tmp_path: Path, faults: list[CacheFault]) -> None:
    await anyio.Path(tmp_path / "file").write_bytes(b"in the way")
    store = FilesystemStore(tmp_path / "file" / "cache", 10_000_000)
    cache = ImageCache(store, ttl_seconds=TTL_SECONDS, on_fault=faults.append)
    assert await cache.lookup(sample_request(), 0) is None
    assert await cache.store(sample_request(), sample_image()) is False
    assert faults == [CacheFault("lookup", "ENOTDIR"), CacheFault("store", "ENOTDIR")]


async def test_a_picture_that_cannot_be_decoded_is_not_stored(cache: ImageCache, faults: list[CacheFault]) -> None:
    picture = dataclasses.replace(sample_image().picture, encoded=(b"not base64!",))
    assert await cache.store(sample_request(), dataclasses.replace(sample_image(), picture=picture)) is False
    assert [fault.operation for fault in faults] == ["store"]


async def test_a_picture_over_the_budget_is_not_kept_and_no_fault(clock: Clock, faults: list[CacheFault]) -> None:
    store = MemoryStore(1000, timer=clock)
    cache = ImageCache(store, ttl_seconds=TTL_SECONDS, clock=clock, on_fault=faults.append)
    assert await cache.store(sample_request(), sample_image(LARGE)) is False
    assert faults == []


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt()])
async def test_cancellation_passes_through(error: BaseException, faults: list[CacheFault]) -> None:
    cache = ImageCache(FaultyStore(error), ttl_seconds=TTL_SECONDS, on_fault=faults.append)
    with pytest.raises(type(error)):
        await cache.lookup(sample_request(), 0)
    with pytest.raises(type(error)):
        await cache.store(sample_request(), sample_image())
    assert faults == []


async def test_faults_are_logged_once_per_change_and_tell_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    store = FaultyStore(OSError(errno.EACCES, "Permission denied", "/secret/path"))
    cache = ImageCache(store, ttl_seconds=TTL_SECONDS, clock=Clock())
    request = sample_request("secret prompt")
    with caplog.at_level(logging.INFO, logger="sfumato.cache"):
        for _ in range(3):
            await cache.lookup(request, 0)
            await cache.store(request, sample_image())
        store.error = None
        for _ in range(2):
            await cache.lookup(request, 0)
        store.error = TimeoutError("secret")
        await cache.lookup(request, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "Cache lookup failed (EACCES); requests go on without it.",
        "Cache store failed (EACCES); requests go on without it.",
        "Cache lookup works again.",
        "Cache lookup failed (TimeoutError); requests go on without it.",
    ]
    assert "secret" not in caplog.text


async def test_invalidate_and_clear(cache: ImageCache) -> None:
    prompts = ["one", "two", "three"]
    for prompt in prompts:
        await cache.store(sample_request(prompt), sample_image())
    assert await cache.invalidate(cache.key(sample_request("one"), 0)) == 1
    assert await cache.invalidate(cache.key(sample_request("one"), 0)) == 0
    assert await cache.lookup(sample_request("one"), 0) is None
    assert await cache.clear() == 2
    assert await cache.lookup(sample_request("two"), 0) is None


async def test_a_noop_store_switches_the_cache_off() -> None:
    cache = ImageCache(NoopStore(), ttl_seconds=TTL_SECONDS)
    assert cache.enabled is False
    assert cache.ttl_seconds(sample_request()) is None
    assert await cache.store(sample_request(), sample_image()) is False
    assert await cache.lookup(sample_request(), 0) is None
    assert (await cache.stats()).lookups == 0
    assert ImageCache(FaultyStore(None), ttl_seconds=1).enabled is True


@pytest.mark.parametrize("ttl_seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_default_ttl_that_is_no_time_is_refused(ttl_seconds: float) -> None:
    with pytest.raises(ValueError, match="ttl_seconds"):
        ImageCache(NoopStore(), ttl_seconds=ttl_seconds)


async def test_a_cancelled_store_leaves_no_temporary_file(tmp_path: Path, clock: Clock) -> None:
    cache = ImageCache(FilesystemStore(tmp_path, 10_000_000, clock=clock), ttl_seconds=60, clock=clock)
    for checkpoints in range(8):
        async with anyio.create_task_group() as group:
            group.start_soon(cache.store, sample_request(f"prompt {checkpoints}"), sample_image(LARGE))
            for _ in range(checkpoints):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert [path async for path in anyio.Path(tmp_path).rglob("*.tmp")] == []
