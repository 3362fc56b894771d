from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.memory import MemoryStore, MemoryValue
from sfumato.cache.store import DamagedValueError, Store, StoreStats
from sfumato.cache.tiered import MEMORY_SECONDS, TieredStore
from sfumato.wire.payload import Piece
from tests.cache.contract import CAPACITY_BYTES, TENTH, Clock, StoreContract, content, keys_of, put

# Room for one large value: what is older is read from the backend, which so learns of the use.
TIER_BYTES = 600_000


class Held:
    """A value of the backend that a thread begins to read and does not come to the end of until it may."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.began = threading.Event()
        self.released = threading.Event()

    def __len__(self) -> int:
        return len(self._data)

    def read(self, start: int, stop: int) -> bytes:
        self.began.set()
        assert self.released.wait(60)
        return self._data[start:stop]

    read_now = read


class Backend(MemoryStore):
    """A store that counts reads, fails when told to, and can be held up in the middle of one."""

    def __init__(self, max_bytes: int, clock: Clock) -> None:
        super().__init__(max_bytes, timer=clock)
        self.reads = 0
        self.closings = 0
        self.fault: Exception | None = None
        self.reached = asyncio.Event()
        self.released = asyncio.Event()
        self.released.set()

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault

    async def get(self, key: str) -> bytes | MemoryValue | None:
        self.reads += 1
        self._fail()
        value = await super().get(key)
        self.reached.set()
        await self.released.wait()
        return value

    async def peek(self, key: str, size: int) -> bytes | None:
        self._fail()
        return await super().peek(key, size)

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        self._fail()
        return await super().set(key, value, expires_in=expires_in)

    async def delete(self, key: str) -> bool:
        self._fail()
        return await super().delete(key)

    async def clear(self) -> int:
        self._fail()
        return await super().clear()

    async def stats(self) -> StoreStats:
        self._fail()
        return await super().stats()

    async def aclose(self) -> None:
        self.closings += 1
        self._fail()


class OneValue(MemoryStore):
    """A store whose reads give one value."""

    def __init__(self, value: Any) -> None:
        super().__init__(CAPACITY_BYTES)
        self._value = value

    async def get(self, key: str) -> Any:
        return self._value


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> MemoryStore:
    return MemoryStore(TIER_BYTES, timer=clock)


class TestOverMemory(StoreContract):
    @pytest.fixture
    def store(self, memory: MemoryStore, clock: Clock) -> Store:
        return TieredStore(memory, MemoryStore(CAPACITY_BYTES, timer=clock))


class TestOverFiles(StoreContract):
    @pytest.fixture
    def store(self, memory: MemoryStore, tmp_path: Path, clock: Clock) -> Store:
        return TieredStore(memory, FilesystemStore(tmp_path, CAPACITY_BYTES, clock=clock))


@pytest.mark.anyio
class TestTheTier:
    @pytest.fixture
    async def backend(self, clock: Clock) -> Backend:
        return Backend(CAPACITY_BYTES, clock)

    @pytest.fixture
    async def store(self, memory: MemoryStore, backend: Backend) -> TieredStore:
        return TieredStore(memory, backend)

    async def test_what_was_stored_is_not_read_from_the_backend(self, store: TieredStore, backend: Backend) -> None:
        await put(store, "key", b"va", b"lue")
        assert await store.get("key") == b"value"
        assert backend.reads == 0

    async def test_what_was_read_once_is_not_read_again(self, store: TieredStore, backend: Backend) -> None:
        await put(backend, "key", b"value")
        assert [await store.get("key") for _ in range(3)] == [b"value"] * 3
        assert backend.reads == 1

    async def test_a_removal_elsewhere_is_seen_in_time(
        self, store: TieredStore, backend: Backend, clock: Clock
    ) -> None:
        await put(store, "key", b"value", expires_in=600)
        await backend.delete("key")
        clock.advance(MEMORY_SECONDS - 0.5)
        assert await store.get("key") == b"value"
        clock.advance(0.5)
        assert await store.get("key") is None

    async def test_reading_from_memory_does_not_prolong_its_time(
        self, store: TieredStore, backend: Backend, clock: Clock
    ) -> None:
        await put(store, "key", b"value")
        for _ in range(4):
            clock.advance(MEMORY_SECONDS / 4)
            await store.get("key")
        assert backend.reads == 1

    async def test_a_value_that_fits_the_backend_only_is_kept_there(
        self, store: TieredStore, memory: MemoryStore
    ) -> None:
        assert await put(store, "key", TENTH, TENTH)
        assert (await memory.stats()).entries == 0
        assert await content(store, "key") == TENTH * 2

    async def test_what_the_backend_refuses_is_not_in_memory_either(
        self, store: TieredStore, backend: Backend, memory: MemoryStore
    ) -> None:
        await put(store, "key", b"older")
        assert not await put(store, "key", *[TENTH] * 11)
        assert await memory.get("key") is None

    async def test_removing_removes_both(self, store: TieredStore, backend: Backend, memory: MemoryStore) -> None:
        for key in ("one", "two"):
            await put(store, key, b"value")
        assert await store.delete("one")
        assert await memory.get("one") is None
        assert await store.clear() == 1
        assert await memory.get("two") is None
        assert await keys_of(store) == []

    @pytest.mark.parametrize("removal", ["delete", "clear"])
    async def test_a_removal_during_a_read_is_not_undone(
        self, store: TieredStore, backend: Backend, memory: MemoryStore, removal: str
    ) -> None:
        await put(backend, "key", b"value")
        backend.released.clear()
        reading = asyncio.ensure_future(store.get("key"))
        await backend.reached.wait()
        await (store.delete("key") if removal == "delete" else store.clear())
        backend.released.set()
        assert await reading == b"value"
        assert await memory.get("key") is None

    async def test_a_newer_value_is_not_replaced_by_one_read_before(
        self, store: TieredStore, backend: Backend, memory: MemoryStore
    ) -> None:
        await put(backend, "key", b"older")
        backend.released.clear()
        reading = asyncio.ensure_future(store.get("key"))
        await backend.reached.wait()
        await put(store, "key", b"newer")
        backend.released.set()
        assert await reading == b"older"
        assert await store.get("key") == b"newer"

    @pytest.mark.parametrize("change", ["delete", "clear", "set"])
    async def test_a_change_while_a_value_is_copied_is_not_undone(self, memory: MemoryStore, change: str) -> None:
        held = Held(b"o" * 300_000)
        store = TieredStore(memory, OneValue(held))
        reading = asyncio.ensure_future(store.get("key"))
        await asyncio.to_thread(held.began.wait, 10)
        if change == "set":
            await put(store, "key", b"newer")
        else:
            await (store.delete("key") if change == "delete" else store.clear())
        held.released.set()
        value: Any = await reading
        assert value is held
        assert await memory.get("key") is None

    async def test_while_the_backend_fails_memory_serves(self, store: TieredStore, backend: Backend) -> None:
        await put(store, "held", b"value")
        backend.fault = OSError("gone")
        assert await store.get("held") == b"value"
        with pytest.raises(OSError, match="gone"):
            await store.get("unknown")
        with pytest.raises(OSError, match="gone"):
            await put(store, "new", b"value")
        assert await store.get("new") == b"value"
        with pytest.raises(OSError, match="gone"):
            await store.stats()

    async def test_while_the_backend_fails_removals_reach_memory(self, store: TieredStore, backend: Backend) -> None:
        for key in ("one", "two"):
            await put(store, key, b"value")
        backend.fault = OSError("gone")
        with pytest.raises(OSError, match="gone"):
            await store.delete("one")
        with pytest.raises(OSError, match="gone"):
            await store.clear()
        for key in ("one", "two"):
            with pytest.raises(OSError, match="gone"):
                await store.get(key)

    async def test_a_beginning_comes_from_memory_where_it_is_and_is_not_kept_there(
        self, store: TieredStore, backend: Backend, memory: MemoryStore
    ) -> None:
        await put(store, "near", b"value")
        await put(backend, "far", b"value")
        assert await store.peek("far", 2) == b"va"
        backend.fault = OSError("gone")
        assert await store.peek("near", 2) == b"va"
        with pytest.raises(OSError, match="gone"):
            await store.peek("far", 2)
        assert (await memory.stats()).entries == 1

    async def test_a_damaged_value_is_told(self, store: TieredStore, backend: Backend) -> None:
        backend.fault = DamagedValueError("damaged")
        with pytest.raises(DamagedValueError):
            await store.get("key")

    async def test_both_are_counted_apart(self, store: TieredStore, backend: Backend) -> None:
        await put(backend, "far", b"value")
        await put(store, "near", b"value")
        assert (await store.stats()).entries == 2
        assert await store.memory_stats() == StoreStats(entries=1, size_bytes=5, capacity_bytes=TIER_BYTES)

    async def test_closing_closes_both(self, store: TieredStore, backend: Backend) -> None:
        await put(store, "key", b"value")
        backend.fault = OSError("gone")
        with pytest.raises(OSError, match="gone"):
            await store.aclose()
        assert backend.closings == 1
        assert (await store.memory_stats()).entries == 0
