"""What every store promises: one suite, to which each backend supplies the ``store`` fixture. And samples to store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from sfumato.cache.image_cache import ImageCache
from sfumato.cache.invalidation import parse_filter
from sfumato.cache.store import DamagedValueError, Store
from sfumato.images.request import GeneratedImage, ImageRequest, Operation, Picture, Usage
from sfumato.images.resolution import ImageWish, RequestPolicy, resolve
from sfumato.images.variants import Variant, parse_variant
from sfumato.wire.payload import Base64Text, Part, Piece, encode_base64, join

CAPACITY_BYTES = 4_000_000
# Ten of these never fit beside their keys, nine do.
TENTH = bytes(range(250)) * 1600


class Clock:
    """Time that a test moves by hand, long before the kernel's, which stamps files that are being written."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def sample_request(prompt: str = "a lighthouse", **wish: Any) -> ImageRequest:
    """Resolve a request as a door would."""
    variant = parse_variant("gemini-3-pro-image-4k-16x9")
    assert isinstance(variant, Variant)
    whole = {"operation": Operation.GENERATION, "variant": variant, "prompt": prompt, **wish}
    return resolve(ImageWish(**whole), RequestPolicy())


def sample_image(
    raw: bytes = b"\xff\xd8 a picture", *, slot: int = 0, created: float = 1_700_000_000.0
) -> GeneratedImage:
    """Make a fresh picture in two base64 pieces, as Gemini's answer leaves it."""
    encoded = encode_base64(raw)
    return GeneratedImage(
        slot=slot,
        picture=Picture(
            encoded=(encoded[:5], memoryview(encoded)[5:]), mime_type="image/jpeg", width=5504, height=3072
        ),
        usage=Usage(input_tokens=7, output_tokens=2000, output_image_tokens=2000, total_tokens=2007),
        price_usd=0.24,
        created=created,
    )


async def put(store: Store, key: str, *value: Piece, expires_in: float | None = None) -> bool:
    """Store pieces."""
    return await store.set(key, value, expires_in=expires_in)


async def keys_of(store: Store) -> list[str]:
    """Collect the keys in order."""
    return sorted([key async for key in store.keys()])  # noqa: SIM118 - a store is no mapping


async def content(store: Store, key: str) -> bytes | None:
    """Read a whole value."""
    value = await store.get(key)
    return None if value is None else join((value,))


async def read_whole(store: Store, key: str) -> object:
    return await store.get(key)


async def read_beginning(store: Store, key: str) -> object:
    return await store.peek(key, 3)


# For what holds however a value is read.
READS = pytest.mark.parametrize("read", [read_whole, read_beginning])
Read = Callable[[Store, str], Awaitable[object]]


async def list_twenty(store: Store) -> None:
    """List the entries of twenty pictures of 1 MB, and remove those of one prompt."""
    cache = ImageCache(store, ttl_seconds=3600, clock=lambda: 1_700_000_000.0)
    for number in range(20):
        assert await cache.store(sample_request(f"prompt {number}"), sample_image(bytes(1_000_000)))
    assert len([header async for header in cache.entries()]) == 20
    assert await cache.invalidate(parse_filter(prompt="prompt 7")) == 1


@pytest.mark.anyio
class StoreShape:
    """What holds for a store that may keep nothing."""

    async def test_a_missing_key_is_none(self, store: Store) -> None:
        assert await store.get("nothing") is None

    async def test_of_a_missing_key_there_is_no_beginning(self, store: Store) -> None:
        assert await store.peek("nothing", 10) is None

    async def test_removing_nothing_says_so(self, store: Store) -> None:
        assert await store.delete("nothing") is False
        assert await store.clear() == 0

    async def test_an_empty_store_has_no_keys_and_no_size(self, store: Store) -> None:
        stats = await store.stats()
        assert await keys_of(store) == []
        assert (stats.entries, stats.size_bytes, stats.evictions) == (0, 0, 0)

    async def test_closing_twice_is_harmless(self, store: Store) -> None:
        await store.aclose()
        await store.aclose()


class StoreContract(StoreShape):
    """What holds for a store of `CAPACITY_BYTES` that keeps what it is given."""

    @pytest.mark.parametrize(
        "value",
        [
            [],
            [b""],
            [b"one"],
            [b"head", memoryview(b"[body]")[1:-1], b""],
            [b"head", TENTH],
            [b"head", Part(b"a blob", 2, 6), b"tail"],
            [b"head", Base64Text(TENTH), Part(memoryview(TENTH), 1, 200_000)],
        ],
        ids=["none", "empty", "one", "pieces", "large", "blob", "large blobs"],
    )
    async def test_pieces_come_back_as_one_value(self, store: Store, value: Sequence[Piece]) -> None:
        assert await store.set("key", value, expires_in=None)
        assert await content(store, "key") == join(value)

    async def test_a_large_value_is_read_in_any_order_and_outlives_its_removal(self, store: Store) -> None:
        await put(store, "key", b"head", TENTH)
        value = await store.get("key")
        assert value is not None
        await put(store, "key", b"another")
        await store.clear()
        assert len(value) == 4 + len(TENTH)
        part = Part(value, 0, len(value))
        assert part.read(4, len(value)) == TENTH
        assert part.read(2, 7) == b"ad\0\1\2"
        assert part.read_now(0, 4) == b"head"
        assert part.read(len(value), len(value)) == b""

    async def test_a_value_read_as_it_is_needed_is_checked_once(self, store: Store) -> None:
        await put(store, "key", TENTH)
        checks: list[None] = []

        def refuse() -> None:
            checks.append(None)
            raise DamagedValueError("not good")

        value = await store.get("key")
        if isinstance(value, bytes | None):
            return
        with pytest.raises(DamagedValueError):
            value.vouch(refuse)
        assert not value.vouched
        value.vouch(lambda: checks.append(None))
        value.vouch(lambda: checks.append(None))
        again = await store.get("key")
        assert not isinstance(again, bytes | None)
        assert (value.vouched, again.vouched, len(checks)) == (True, True, 2)
        await put(store, "key", TENTH)
        new = await store.get("key")
        assert not isinstance(new, bytes | None)
        assert not new.vouched

    @pytest.mark.parametrize("key", ["key", "schlüssel 🔑", "k" * 9000])
    @pytest.mark.parametrize("value", [[], [b"one"], [b"head", TENTH]], ids=["empty", "short", "large"])
    async def test_the_beginning_of_a_value(self, store: Store, key: str, value: Sequence[Piece]) -> None:
        await store.set(key, value, expires_in=None)
        for size in (0, 2, 3, 4, 100, 70_000, 10_000_000):
            assert await store.peek(key, size) == join(value)[:size]

    async def test_the_beginning_has_the_time_of_its_value(self, store: Store, clock: Clock) -> None:
        await put(store, "key", TENTH, expires_in=10)
        clock.advance(9.5)
        assert await store.peek("key", 3) == TENTH[:3]
        clock.advance(0.5)
        assert await store.peek("key", 3) is None

    @pytest.mark.parametrize("key", ["", "../../etc/passwd", "a/b\\c:d*e", "schlüssel 🔑", "k" * 3000, "nul\0line\n"])
    async def test_any_text_is_a_key(self, store: Store, key: str) -> None:
        await put(store, key, b"value")
        await put(store, f"{key}.", b"other")
        assert await store.get(key) == b"value"
        assert await keys_of(store) == sorted([key, f"{key}."])

    async def test_the_last_value_stands(self, store: Store) -> None:
        await put(store, "key", b"a longer first value")
        await put(store, "key", b"second")
        assert await store.get("key") == b"second"
        assert (await store.stats()).entries == 1

    async def test_a_removed_value_is_gone(self, store: Store) -> None:
        await put(store, "key", b"value")
        assert await store.delete("key") is True
        assert await store.get("key") is None
        assert await store.delete("key") is False

    async def test_clear_removes_and_counts_everything(self, store: Store) -> None:
        for number in range(5):
            await put(store, f"key {number}", b"value")
        assert await store.clear() == 5
        assert await keys_of(store) == []
        assert (await store.stats()).size_bytes == 0

    async def test_each_value_has_its_own_time(self, store: Store, clock: Clock) -> None:
        await put(store, "short", b"value", expires_in=10)
        await put(store, "long", b"value", expires_in=20)
        await put(store, "endless", b"value", expires_in=None)
        clock.advance(9.5)
        assert await store.get("short") == b"value"
        clock.advance(0.5)
        assert await store.get("short") is None
        assert await keys_of(store) == ["endless", "long"]
        clock.advance(10)
        assert await keys_of(store) == ["endless"]
        assert (await store.stats()).entries == 1

    async def test_storing_again_begins_a_new_time(self, store: Store, clock: Clock) -> None:
        await put(store, "key", b"first", expires_in=10)
        clock.advance(9)
        await put(store, "key", b"second", expires_in=10)
        clock.advance(9)
        assert await store.get("key") == b"second"

    @pytest.mark.parametrize("expires_in", [0, -1])
    async def test_a_value_without_time_replaces_and_is_not_kept(self, store: Store, expires_in: float) -> None:
        await put(store, "key", b"older")
        assert await put(store, "key", b"newer", expires_in=expires_in) is False
        assert await store.get("key") is None

    async def test_a_value_over_the_budget_replaces_and_is_not_kept(self, store: Store) -> None:
        await put(store, "key", b"older")
        await put(store, "other", b"value")
        assert await put(store, "key", *[TENTH] * 10, b"and more") is False
        assert await store.get("key") is None
        assert await store.get("other") == b"value"
        assert (await store.stats()).evictions == 0

    async def test_the_budget_is_kept(self, store: Store, clock: Clock) -> None:
        for number in range(25):
            clock.advance(1)
            assert await put(store, f"key {number}", TENTH)
            assert (await store.stats()).size_bytes <= CAPACITY_BYTES
        stats = await store.stats()
        assert stats.capacity_bytes == CAPACITY_BYTES
        assert stats.entries + stats.evictions == 25
        assert await content(store, "key 24") == TENTH
        assert await store.get("key 0") is None

    async def test_the_least_recently_used_value_makes_room(self, store: Store, clock: Clock) -> None:
        for number in range(9):
            clock.advance(1)
            await put(store, f"key {number}", TENTH)
        for used in ("key 0", "key 2"):
            clock.advance(1)
            await store.get(used)
        # What may be evicting in the background has not seen what comes now: this waits for it.
        await store.stats()
        clock.advance(1)
        await put(store, "new", TENTH, TENTH[:200_000])
        assert "key 1" not in await keys_of(store)
        assert {"key 0", "key 2", "new"} <= set(await keys_of(store))

    async def test_a_look_at_the_beginning_is_no_use(self, store: Store, clock: Clock) -> None:
        for number in range(9):
            clock.advance(1)
            await put(store, f"key {number}", TENTH)
        clock.advance(1)
        await store.peek("key 0", 10)
        # As above.
        await store.stats()
        clock.advance(1)
        await put(store, "new", TENTH, TENTH[:200_000])
        assert "key 0" not in await keys_of(store)
        assert "new" in await keys_of(store)

    async def test_expiry_is_no_eviction(self, store: Store, clock: Clock) -> None:
        await put(store, "key", TENTH, expires_in=1)
        clock.advance(1)
        assert await store.get("key") is None
        stats = await store.stats()
        assert (stats.entries, stats.size_bytes, stats.evictions) == (0, 0, 0)

    async def test_concurrent_writers_leave_one_whole_value(self, store: Store) -> None:
        values = [bytes([number]) * 300_000 for number in range(8)]
        seen: list[bytes | None] = []

        async def read() -> None:
            seen.append(await content(store, "key"))

        async with anyio.create_task_group() as group:
            for value in values:
                group.start_soon(put, store, "key", value)
                group.start_soon(read)
        assert await content(store, "key") in values
        assert all(value is None or value in values for value in seen)
