"""Settings to a store: which backend, where it is, and what stands in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from pydantic import SecretStr

from sfumato.cache.memory import MemoryStore
from sfumato.cache.noop import NoopStore
from sfumato.cache.object_urls import check_object_url
from sfumato.cache.redis_urls import parse_redis_url
from sfumato.cache.store import Store
from sfumato.cache.tiered import TieredStore
from sfumato.errors import ConfigurationError
from sfumato.settings import MEGABYTE, Settings, variable_names

if TYPE_CHECKING:
    from sfumato.cache.redis import RedisConnection


def create_store(settings: Settings, redis: RedisConnection | None = None) -> Store:
    """Create the configured cache backend, with a memory tier in front when one is asked for.

    Nothing is connected to, and nothing written but the directory of a ``file://`` URL. The backends' libraries are
    loaded only here and only when they are asked for.

    Args:
        settings: The configuration.
        redis: What `create_redis` gave, where something else shares it; the store closes it.

    Raises:
        ConfigurationError: A URL is missing or not one of the backend, an extra is not installed, or the system cannot
            do it. The message names the variable and never holds its value.
    """
    backend = _create_backend(settings, redis)
    tier_bytes = int(settings.cache_memory_mb * MEGABYTE)
    if tier_bytes == 0 or isinstance(backend, MemoryStore | NoopStore):
        return backend
    return TieredStore(MemoryStore(tier_bytes), backend)


def default_cache_dir() -> Path:
    """Return the user's cache directory for sfumato on this platform; it need not exist."""
    return platformdirs.user_cache_path("sfumato")


def cache_directory(settings: Settings) -> Path:
    """Return where the ``filesystem`` backend keeps its files."""
    return settings.cache_dir or default_cache_dir()


def create_redis(settings: Settings) -> RedisConnection | None:
    """Prepare the connection to Redis that processes coordinate over, None where they do not.

    Raises:
        ConfigurationError: As `create_store`.
    """
    url = check_redis(settings)
    if url is None:
        return None
    from sfumato.cache.redis import connect  # noqa: PLC0415 - an extra, loaded when it is asked for

    return connect(url)


def check_redis(settings: Settings) -> str | None:
    """Return the URL of the Redis that processes coordinate over, None where they do not or the extra is missing.

    Raises:
        ConfigurationError: As `create_store`; an extra that only coordination would need may be missing.
    """
    holds_cache = settings.cache_enabled and settings.cache_backend == "redis"
    if not holds_cache and settings.redis_url is None:
        return None
    field = "cache_url" if settings.cache_url and holds_cache else "redis_url"
    url = _url(settings, field, "redis") if holds_cache else _text(settings, field)
    # Before the URL is read: around us the variable may be meant for somebody else.
    try:
        import sfumato.cache.redis  # noqa: F401, PLC0415 - an extra, loaded when it is asked for
    except ConfigurationError:
        if shares_cache(settings):
            raise
        return None
    try:
        parse_redis_url(url)
    except ConfigurationError as error:
        raise _named(field, error) from None
    return url


def shares_cache(settings: Settings) -> bool:
    """Tell whether the cache is one that hosts share."""
    return settings.cache_enabled and settings.cache_backend in ("redis", "s3")


def _create_backend(settings: Settings, redis: RedisConnection | None) -> Store:
    max_bytes = int(settings.cache_max_size_mb * MEGABYTE)
    if not settings.cache_enabled:
        return NoopStore()
    match settings.cache_backend:
        case "noop":
            return NoopStore()
        case "memory":
            return MemoryStore(max_bytes)
        case "filesystem":
            return _create_filesystem(cache_directory(settings), max_bytes)
        case "redis":
            return _create_redis(redis or create_redis(settings), max_bytes)
        case "s3":
            return _create_objects(settings, max_bytes)


def _create_filesystem(directory: Path, max_bytes: int) -> Store:
    try:
        from sfumato.cache.filesystem import FilesystemStore  # noqa: PLC0415 - it needs fcntl, which Windows lacks
    except ImportError:
        name = variable_names("cache_backend")[0]
        raise ConfigurationError(f"{name}=filesystem needs a POSIX system; take memory, redis or s3 here.") from None
    return FilesystemStore(directory, max_bytes)


def _create_redis(connection: RedisConnection | None, max_bytes: int) -> Store:
    from sfumato.cache.redis_store import RedisStore  # noqa: PLC0415 - an extra, loaded when it is asked for

    assert connection is not None  # noqa: S101 - the backend is redis
    return RedisStore(connection, max_bytes)


def _create_objects(settings: Settings, max_bytes: int) -> Store:
    from sfumato.cache.objects import ObjectStore  # noqa: PLC0415 - it loads an extra

    url = _url(settings, "cache_url", "s3")
    try:
        check_object_url(url)
    except ConfigurationError as error:
        raise _named("cache_url", error) from None
    return ObjectStore(url, max_bytes)


def _url(settings: Settings, field: str, backend: str) -> str:
    url = _text(settings, field)
    if not url:
        names = "GEMINI_IMAGE_CACHE_URL or REDIS_URL" if backend == "redis" else "GEMINI_IMAGE_CACHE_URL"
        raise ConfigurationError(f"{variable_names('cache_backend')[0]}={backend} needs {names}.")
    return url


def _text(settings: Settings, field: str) -> str:
    secret: SecretStr | None = getattr(settings, field)
    return secret.get_secret_value().strip() if secret else ""


def _named(field: str, error: ConfigurationError) -> ConfigurationError:
    return ConfigurationError(f"{variable_names(field)[0]}: {error.message}")
