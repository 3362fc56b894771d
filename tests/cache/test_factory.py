from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sfumato.cache.factory import cache_directory, create_store, default_cache_dir
from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.memory import MemoryStore
from sfumato.cache.noop import NoopStore
from sfumato.cache.objects import ObjectStore
from sfumato.cache.redis_store import RedisStore
from sfumato.cache.store import Store
from sfumato.cache.tiered import TieredStore
from sfumato.errors import ConfigurationError
from sfumato.settings import MEGABYTE, Settings, load_settings
from tests.cache.contract import put

REDIS = "redis://:hidden@127.0.0.1:1/0"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, FilesystemStore),
        ({"cache_backend": "noop"}, NoopStore),
        ({"cache_backend": "none"}, NoopStore),
        ({"cache_enabled": False, "cache_backend": "s3"}, NoopStore),
        ({"cache_backend": "memory"}, MemoryStore),
        ({"cache_backend": "filesystem"}, FilesystemStore),
        ({"cache_backend": "s3", "cache_url": "memory://"}, ObjectStore),
        ({"cache_backend": "s3", "cache_url": " s3://pictures/prefix\n"}, ObjectStore),
        ({"cache_backend": "redis", "cache_url": REDIS}, RedisStore),
        ({"cache_backend": "redis", "redis_url": REDIS}, RedisStore),
        ({"cache_backend": "memory", "cache_memory_mb": 1}, MemoryStore),
        ({"cache_backend": "noop", "cache_memory_mb": 1}, NoopStore),
        ({"cache_memory_mb": 1}, TieredStore),
        ({"cache_backend": "s3", "cache_url": "memory://", "cache_memory_mb": 0.5}, TieredStore),
    ],
)
def test_every_backend(values: dict[str, Any], kind: type[Store]) -> None:
    assert type(create_store(load_settings(**values))) is kind


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["memory", "filesystem", "s3"])
async def test_the_budget_is_the_configured_one(backend: str, tmp_path: Path) -> None:
    settings = Settings(cache_backend=backend, cache_max_size_mb=0.5, cache_dir=tmp_path, cache_url="memory://")
    store = create_store(settings)
    assert (await store.stats()).capacity_bytes == MEGABYTE // 2
    await store.aclose()


@pytest.mark.anyio
async def test_the_memory_tier_has_the_configured_size(tmp_path: Path) -> None:
    store = create_store(Settings(cache_dir=tmp_path, cache_memory_mb=2))
    assert isinstance(store, TieredStore)
    assert (await store.memory_stats()).capacity_bytes == 2 * MEGABYTE
    await put(store, "key", b"value")
    assert [(await one.stats()).entries for one in (store, FilesystemStore(tmp_path, MEGABYTE))] == [1, 1]
    await store.aclose()


def test_the_cache_has_a_redis_of_its_own_when_one_is_named() -> None:
    both = {"cache_backend": "redis", "redis_url": "redis://127.0.0.1:1"}
    with pytest.raises(ConfigurationError, match="GEMINI_IMAGE_CACHE_URL"):
        create_store(load_settings(**both, cache_url="s3://hidden"))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cache_backend": "redis"}, "GEMINI_IMAGE_CACHE_BACKEND=redis needs GEMINI_IMAGE_CACHE_URL or REDIS_URL"),
        ({"cache_backend": "redis", "redis_url": " "}, "needs GEMINI_IMAGE_CACHE_URL or REDIS_URL"),
        ({"cache_backend": "redis", "cache_url": "s3://hidden"}, "GEMINI_IMAGE_CACHE_URL: "),
        ({"cache_backend": "redis", "redis_url": "http://hidden"}, "REDIS_URL: "),
        ({"cache_backend": "s3"}, "GEMINI_IMAGE_CACHE_BACKEND=s3 needs GEMINI_IMAGE_CACHE_URL"),
        ({"cache_backend": "s3", "redis_url": REDIS}, "needs GEMINI_IMAGE_CACHE_URL"),
        ({"cache_backend": "s3", "cache_url": REDIS}, "GEMINI_IMAGE_CACHE_URL: "),
        ({"cache_backend": "s3", "cache_url": "s3://id:hidden@pictures"}, "GEMINI_IMAGE_CACHE_URL: "),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named_and_never_shown(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_store(load_settings(**values))
    assert named in caught.value.message
    assert "hidden" not in caught.value.message
    assert caught.value.__cause__ is None


def test_a_system_without_file_locks_is_told_what_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sfumato.cache.filesystem")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ConfigurationError, match="memory"):
        create_store(Settings())


@pytest.mark.parametrize(
    ("values", "modules", "extra"),
    [
        ({"cache_backend": "s3", "cache_url": "memory://"}, ["obstore.store"], "s3"),
        ({"cache_backend": "redis", "redis_url": REDIS}, ["redis.asyncio", "sfumato.cache.redis"], "redis"),
    ],
)
def test_a_missing_extra_is_named(
    values: dict[str, Any], modules: list[str], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, modules[0], None)
    # The module that was imported before knows the library: it is loaded anew.
    with pytest.raises(ConfigurationError, match=rf"pip install 'sfumato\[{extra}\]'"):
        create_store(load_settings(**values))


def test_the_default_directory_is_named_after_us(tmp_path: Path) -> None:
    assert "sfumato" in default_cache_dir().parts
    assert cache_directory(Settings()) == default_cache_dir()
    assert cache_directory(Settings(cache_dir=tmp_path)) == tmp_path


def test_backends_are_loaded_when_they_are_asked_for() -> None:
    code = (
        "import sys; from sfumato.cache.factory import create_store; from sfumato.settings import Settings;"
        "create_store(Settings(cache_backend='memory'));"
        "print([name for name in ('obstore', 'redis', 'sfumato.cache.filesystem') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
