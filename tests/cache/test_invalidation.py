from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.image_cache import CacheFault, CacheUnavailableError, ImageCache
from sfumato.cache.invalidation import EVERY_ENTRY, EntryFilter, parse_filter
from sfumato.cache.memory import MemoryStore, MemoryValue
from sfumato.cache.store import Store
from sfumato.errors import InvalidParameterError, ModelNotFoundError
from sfumato.images.request import ImageRequest, Operation
from sfumato.images.resolution import ImageWish, RequestPolicy, resolve
from sfumato.images.variants import parse_variant
from tests.cache.contract import Clock, keys_of, sample_image, sample_request

pytestmark = pytest.mark.anyio
PRO, FLASH = "gemini-3-pro-image", "gemini-2.5-flash-image"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "filesystem"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Store:
    if request.param == "memory":
        return MemoryStore(10_000_000, timer=clock)
    return FilesystemStore(tmp_path, 10_000_000, clock=clock)


@pytest.fixture
def faults() -> list[CacheFault]:
    return []


@pytest.fixture
def cache(store: Store, clock: Clock, faults: list[CacheFault]) -> ImageCache:
    return ImageCache(store, ttl_seconds=3600, clock=clock, on_fault=faults.append)


class Watched(MemoryStore):
    """A store that notes what is read of it, and how many reads run at a time."""

    def __init__(self) -> None:
        super().__init__(100_000_000)
        self.read: list[str] = []
        self.running = self.most = 0
        self.error: Exception | None = None

    async def get(self, key: str) -> bytes | MemoryValue | None:
        raise AssertionError("a whole value was read")

    async def peek(self, key: str, size: int) -> bytes | None:
        self.read.append(key)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.error is not None:
            raise self.error
        return await super().peek(key, size)


def asking(model: str, prompt: str = "a lighthouse", **wish: Any) -> ImageRequest:
    variant = parse_variant(model)
    assert variant is not None
    return resolve(ImageWish(operation=Operation.GENERATION, variant=variant, prompt=prompt, **wish), RequestPolicy())


async def fill(cache: ImageCache, clock: Clock) -> dict[str, str]:
    """Store five pictures, a minute apart, and return their keys by name."""
    kept = {
        "pro": asking(PRO, tenant="alice"),
        "pro 2k": asking(f"{PRO}-2k", tenant="bob"),
        "pro wide": asking(f"{PRO}-16x9", "an owl", style="vivid"),
        "flash": asking(FLASH, "an owl", tenant="alice"),
        "flash wide": asking(f"{FLASH}-16x9", tenant="bob", style="hidden style"),
    }
    for request in kept.values():
        assert await cache.store(request, sample_image(created=clock.now))
        clock.advance(60)
    return {name: cache.key(request, 0) for name, request in kept.items()}


CASES: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"pro", "pro 2k", "pro wide", "flash", "flash wide"}),
    ({"model": PRO}, {"pro", "pro 2k", "pro wide"}),
    ({"model": f"gemini/{PRO}-preview"}, {"pro", "pro 2k", "pro wide"}),
    ({"model": f"{PRO}-2K"}, {"pro 2k"}),
    ({"model": f"{PRO}-hd"}, set()),
    ({"model": f"{PRO}-1k"}, {"pro"}),
    ({"model": f"{PRO}-4k-16:9"}, set()),
    ({"model": f"{PRO}-16-9"}, {"pro wide"}),
    ({"model": FLASH}, {"flash", "flash wide"}),
    ({"model": "gemini-3.1-flash-image"}, set()),
    ({"prompt": "an owl"}, {"pro wide", "flash"}),
    ({"prompt": "An owl"}, set()),
    ({"prompt_hash": hashlib.sha256(b"an owl").hexdigest()}, {"pro wide", "flash"}),
    ({"prompt_hash": f" {hashlib.sha256(b'an owl').hexdigest()[:16].upper()} "}, {"pro wide", "flash"}),
    ({"prompt": "an owl", "prompt_hash": "0" * 64}, set()),
    ({"tenant": "alice"}, {"pro", "flash"}),
    ({"tenant": "Alice"}, set()),
    ({"older_than_seconds": 0}, {"pro", "pro 2k", "pro wide", "flash", "flash wide"}),
    ({"older_than_seconds": 180}, {"pro", "pro 2k"}),
    ({"older_than_seconds": 300}, set()),
    ({"model": PRO, "tenant": "alice"}, {"pro"}),
    ({"model": FLASH, "tenant": "bob", "older_than_seconds": 59}, {"flash wide"}),
    ({"model": FLASH, "tenant": "bob", "older_than_seconds": 60}, set()),
]


@pytest.mark.parametrize(("words", "names"), CASES, ids=[str(words)[:60] for words, _ in CASES])
async def test_a_filter_means_the_same_for_listing_and_removing(
    cache: ImageCache, store: Store, clock: Clock, words: dict[str, Any], names: set[str]
) -> None:
    keys = await fill(cache, clock)
    expected = {keys[name] for name in names}
    where = parse_filter(**words)

    assert {header.key async for header in cache.entries(where)} == expected
    assert await cache.invalidate(where) == len(expected)
    assert set(await keys_of(store)) == set(keys.values()) - expected
    assert (await cache.stats()).lookups == 0


async def test_a_key_means_its_entry_and_without_the_slot_every_slot(cache: ImageCache, store: Store) -> None:
    request = sample_request(n=10)
    for slot in range(10):
        await cache.store(request, sample_image(slot=slot))
    await cache.store(sample_request("another"), sample_image())
    key = cache.key(request, 3)

    assert await cache.invalidate(parse_filter(key=key)) == 1
    assert await cache.invalidate(key) == 0
    assert await cache.invalidate(parse_filter(key=key.rpartition(":")[0], tenant="nobody")) == 0
    assert await cache.invalidate(parse_filter(key=key.rpartition(":")[0], model=FLASH)) == 0
    assert await cache.invalidate(parse_filter(key=key.rpartition(":")[0], model=PRO)) == 9
    assert await keys_of(store) == [cache.key(sample_request("another"), 0)]


async def test_an_entry_is_told_by_its_key(cache: ImageCache, clock: Clock) -> None:
    keys = await fill(cache, clock)
    header = await cache.get(keys["flash wide"])
    assert header is not None
    assert (header.key, header.tenant, header.style) == (keys["flash wide"], "bob", "custom")
    assert await cache.get(keys["flash wide"].rpartition(":")[0]) is None
    assert await cache.get("another") is None


async def test_held_keys_are_found_without_reading(clock: Clock) -> None:
    store = Watched()
    cache = ImageCache(store, ttl_seconds=3600, clock=clock)
    keys = await fill(cache, clock)
    assert await cache.held({keys["pro"], keys["flash"], "another"}) == {keys["pro"], keys["flash"]}
    assert store.read == []


async def test_what_a_key_tells_is_not_read(clock: Clock) -> None:
    store = Watched()
    cache = ImageCache(store, ttl_seconds=3600, clock=clock)
    keys = await fill(cache, clock)
    assert await cache.invalidate(parse_filter(model=f"{PRO}-2k")) == 1
    assert store.read == []
    assert await cache.invalidate(parse_filter(model=PRO, tenant="bob")) == 0
    assert sorted(store.read) == sorted([keys["pro"], keys["pro wide"]])


async def test_few_entries_are_read_at_a_time_and_none_beyond_the_limit() -> None:
    store = Watched()
    cache = ImageCache(store, ttl_seconds=3600)
    for number in range(50):
        await cache.store(sample_request(f"prompt {number}"), sample_image())
    assert len([header async for header in cache.entries(limit=50)]) == 50
    assert store.most <= 8
    store.read.clear()
    assert len([header async for header in cache.entries(limit=3)]) == 3
    assert len(store.read) <= 8
    store.read.clear()
    assert [header async for header in cache.entries(limit=0)] == []
    assert store.read == []


@pytest.mark.parametrize("damage", [b"foreign", b""])
async def test_what_cannot_be_read_is_passed_over_and_counted(
    cache: ImageCache, store: Store, clock: Clock, faults: list[CacheFault], damage: bytes
) -> None:
    keys = await fill(cache, clock)
    await store.set(keys["pro"], [damage], expires_in=None)
    copied = await store.get(keys["flash"])
    await store.set(keys["pro 2k"], [copied or b""], expires_in=None)

    found = {header.key async for header in cache.entries()}
    assert found == {keys["pro wide"], keys["flash"], keys["flash wide"]}
    assert faults == [CacheFault("list", "damaged")] * 2
    assert await cache.invalidate(parse_filter(older_than_seconds=0)) == 3
    assert faults[2:] == [CacheFault("invalidate", "damaged")] * 2
    assert await cache.invalidate(EVERY_ENTRY) == 2


@pytest.mark.parametrize("length", [5_000, 200_000])
async def test_an_entry_of_a_long_label_is_read_too(cache: ImageCache, clock: Clock, length: int) -> None:
    await fill(cache, clock)
    await cache.store(asking(PRO, "mine", tenant="t" * length), sample_image(b"picture" * 9000, created=clock.now))

    (found,) = [header async for header in cache.entries(parse_filter(tenant="t" * length))]
    assert found.size_bytes == 63_000
    assert await cache.invalidate(parse_filter(tenant="t" * length)) == 1


async def test_a_header_that_is_said_to_be_endless_is_damaged(
    cache: ImageCache, store: Store, clock: Clock, faults: list[CacheFault]
) -> None:
    keys = await fill(cache, clock)
    await store.set(keys["pro"], [b"sfmt\xff\xff\xff\xff", bytes(500_000)], expires_in=None)

    assert len([header async for header in cache.entries()]) == 4
    assert faults == [CacheFault("list", "damaged")]


async def test_a_store_that_fails_is_told_to_administrators(clock: Clock, faults: list[CacheFault]) -> None:
    store = Watched()
    cache = ImageCache(store, ttl_seconds=3600, clock=clock, on_fault=faults.append)
    await fill(cache, clock)
    store.error = TimeoutError("redis://user:secret@host")

    with pytest.raises(CacheUnavailableError) as told:
        [header async for header in cache.entries()]
    assert told.value.fault == CacheFault("list", "TimeoutError")
    assert "secret" not in str(told.value)
    with pytest.raises(CacheUnavailableError):
        await cache.get(cache.key(asking(PRO), 0))
    assert await cache.invalidate(parse_filter(tenant="alice")) is None
    assert [fault.operation for fault in faults] == ["list", "list", "invalidate"]
    store.error = None
    assert len([header async for header in cache.entries()]) == 5


async def test_entries_may_be_left_early(cache: ImageCache, clock: Clock) -> None:
    await fill(cache, clock)
    async for header in cache.entries():
        assert await cache.invalidate(header.key) == 1
        break
    assert len([header async for header in cache.entries()]) == 4


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"key": "img:x"}, "key"),
        ({"key": f"img:{PRO}:-:-:{'0' * 63}"}, "key"),
        ({"key": f"img:{PRO}:-:-:{'0' * 64}:0:0"}, "key"),
        ({"prompt_hash": "0" * 15}, "prompt_hash"),
        ({"prompt_hash": "0" * 65}, "prompt_hash"),
        ({"prompt_hash": "g" * 16}, "prompt_hash"),
        ({"tenant": ""}, "tenant"),
    ],
)
def test_words_that_no_entry_can_have_are_refused(words: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        parse_filter(**words)
    assert refused.value.param == param


@pytest.mark.parametrize("model", ["dall-e-3", "", f"{PRO}-8k", f"{PRO}-16x9-16x9"])
def test_a_model_that_does_not_exist_is_refused(model: str) -> None:
    with pytest.raises(ModelNotFoundError):
        parse_filter(model=model)


def test_a_filter_knows_how_much_it_may_mean() -> None:
    key = f"img:{PRO}:-:-:{'0' * 64}"
    assert parse_filter() == EVERY_ENTRY == EntryFilter()
    assert parse_filter().broad
    assert parse_filter(model=PRO, tenant="a", older_than_seconds=1).broad
    assert not parse_filter(key=key).broad
    assert not parse_filter(prompt="x", model=PRO).broad
    assert not parse_filter(prompt_hash="0" * 16).broad


@pytest.mark.parametrize("variant", ["no-model", f"{PRO}-8k", "x"])
def test_keys_of_models_that_are_no_more_are_of_no_model(variant: str) -> None:
    where = parse_filter(model=PRO)
    assert not where.admits_key(f"img:{variant}:-:-:{'0' * 64}:0")
    assert not where.admits_key("check:0123")
    assert EVERY_ENTRY.admits_key("check:0123")
