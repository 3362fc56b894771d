from __future__ import annotations

import gc
import tracemalloc

import pytest

from sfumato.cache.memory import MemoryStore
from tests.cache.contract import CAPACITY_BYTES, TENTH, Clock, StoreContract, put


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock(now=5.0)


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock) -> MemoryStore:
        return MemoryStore(CAPACITY_BYTES, timer=clock)

    async def test_the_budget_may_be_used_to_the_last_byte(self, store: MemoryStore) -> None:
        for number in range(10):
            await put(store, f"key {number}", TENTH)
        stats = await store.stats()
        assert (stats.entries, stats.size_bytes, stats.evictions) == (10, CAPACITY_BYTES, 0)
        await put(store, "one more", b"byte")
        assert (await store.stats()).evictions == 1

    async def test_any_read_releases_the_bytes_of_expired_values(self, store: MemoryStore, clock: Clock) -> None:
        tracemalloc.start()
        try:
            for number in range(5):
                await put(store, f"key {number}", TENTH[:-1], b".", expires_in=10)
            held = tracemalloc.get_traced_memory()[0]
            clock.advance(10)
            assert await store.get("another key") is None
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < held - 3 * len(TENTH)
        finally:
            tracemalloc.stop()

    async def test_closing_lets_go_of_everything(self, store: MemoryStore) -> None:
        await put(store, "key", b"value")
        await store.aclose()
        assert (await store.stats()).size_bytes == 0
