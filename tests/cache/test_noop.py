from __future__ import annotations

import pytest

from sfumato.cache.noop import NoopStore
from tests.cache.contract import StoreShape, put


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TestNoopStore(StoreShape):
    @pytest.fixture
    def store(self) -> NoopStore:
        return NoopStore()

    async def test_nothing_is_kept(self, store: NoopStore) -> None:
        assert await put(store, "key", b"value") is False
        assert await store.get("key") is None
