from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sfumato.cache.image_cache import ImageCache
from sfumato.cache.memory import MemoryStore
from sfumato.cache.store import StoreStats
from sfumato.images.models import FAMILIES
from sfumato.images.request import CacheControl, GeneratedImage, ImageRequest, Operation, Picture, Usage
from sfumato.images.safety import Safety, Threshold
from sfumato.images.variants import Variant

pytestmark = pytest.mark.anyio
REQUEST = ImageRequest(
    operation=Operation.GENERATION,
    variant=Variant(FAMILIES[0]),
    prompt="x",
    effective_prompt="x",
    safety=Safety(Threshold.OFF),
)


@dataclasses.dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class CountingStore(MemoryStore):
    """Counts how often it is looked at, and may fail to say."""

    def __init__(self) -> None:
        super().__init__(1000_000)
        self.looks = 0
        self.fault: Exception | None = None

    async def stats(self) -> StoreStats:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        return await super().stats()

    async def get(self, key: str) -> Any:
        if self.fault is not None:
            raise self.fault
        return await super().get(key)


def image(slot: int = 0) -> GeneratedImage:
    picture = Picture(raw=b"x" * 1000, mime_type="image/png", width=1, height=1)
    return GeneratedImage(slot=slot, picture=picture, usage=Usage(), price_usd=0.1, created=1_800_000_000.0)


async def test_lookups_are_counted_as_they_happen() -> None:
    cache = ImageCache(CountingStore(), ttl_seconds=60, clock=Clock())
    await cache.lookup(REQUEST, 0)
    await cache.store(REQUEST, image())
    await cache.lookup(REQUEST, 0)
    await cache.lookup(dataclasses.replace(REQUEST, cache_control=CacheControl(no_cache=True)), 0)
    assert (cache.vitals.lookups, cache.vitals.hits) == (2, 1)


async def test_a_lookup_may_be_counted_by_whoever_knows_what_became_of_it() -> None:
    cache = ImageCache(CountingStore(), ttl_seconds=60, clock=Clock())
    await cache.lookup(REQUEST, 0, counted=False)
    assert cache.vitals.lookups == 0
    cache.vitals.note_lookup(hit=True)
    stats = await cache.stats()
    assert (stats.lookups, stats.hits, stats.misses) == (1, 1, 0)


async def test_the_size_is_looked_up_when_a_picture_is_stored_and_not_each_time() -> None:
    store, clock = CountingStore(), Clock()
    cache = ImageCache(store, ttl_seconds=3600, clock=clock)
    assert cache.vitals.size_bytes is None
    await cache.store(REQUEST, image(0))
    first = cache.vitals.size_bytes
    assert first is not None
    assert cache.vitals.capacity_bytes == 1000_000
    await cache.store(REQUEST, image(1))
    assert (store.looks, cache.vitals.size_bytes) == (1, first)
    clock.now += 60
    await cache.store(REQUEST, image(2))
    assert store.looks == 2
    assert cache.vitals.size_bytes > 2 * first
    await cache.lookup(REQUEST, 0)
    assert store.looks == 2


async def test_what_is_removed_shows_at_once() -> None:
    store = CountingStore()
    cache = ImageCache(store, ttl_seconds=3600, clock=Clock())
    await cache.store(REQUEST, image())
    await cache.clear()
    assert cache.vitals.size_bytes == 0


async def test_a_store_that_does_not_answer_has_no_size_and_no_fault_of_a_request_s() -> None:
    store = CountingStore()
    cache = ImageCache(store, ttl_seconds=3600, clock=Clock())
    await cache.store(REQUEST, image())
    store.fault = OSError(28, "full")
    await cache.look()
    assert (cache.vitals.size_bytes, cache.vitals.capacity_bytes, cache.vitals.faults) == (None, None, {})
    await cache.lookup(REQUEST, 0)
    await cache.lookup(REQUEST, 0)
    assert cache.vitals.faults == {("lookup", "ENOSPC"): 2}
    assert (await cache.stats()).faults == 3
