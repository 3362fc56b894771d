"""How `sfumato cache` reaches the configured cache, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from sfumato.errors import ConfigurationError

if TYPE_CHECKING:
    from sfumato.cache.image_cache import ImageCache
    from sfumato.settings import Settings

T = TypeVar("T")


def shared_settings() -> Settings:
    """Read the configuration.

    Raises:
        ConfigurationError: It is invalid, or names a cache that another process cannot see.
    """
    from sfumato.runtime import check_settings  # noqa: PLC0415  # it loads most of the package
    from sfumato.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    check_settings(settings)
    if not settings.cache_enabled or settings.cache_backend == "noop":
        raise ConfigurationError("The cache is off: see GEMINI_IMAGE_CACHE_ENABLED and GEMINI_IMAGE_CACHE_BACKEND.")
    if settings.cache_backend == "memory":
        raise ConfigurationError(
            "GEMINI_IMAGE_CACHE_BACKEND=memory keeps pictures in the memory of each process, where this command cannot "
            "see them. Ask the process itself: GET /gemini-image/cache."
        )
    return settings


def run_on_cache(settings: Settings, work: Callable[[ImageCache], Awaitable[T]]) -> T:
    """Open the configured cache, do *work* on it and close it.

    Raises:
        ConfigurationError: The cache cannot be used; the message tells why, without paths or addresses.
    """
    from sfumato.cache.factory import create_store  # noqa: PLC0415  # as below, what other commands do not need
    from sfumato.cache.image_cache import CacheFault, CacheUnavailableError, ImageCache  # noqa: PLC0415

    # What the cache logs of its faults is told here.
    logging.getLogger("sfumato.cache").addHandler(logging.NullHandler())
    faults: list[CacheFault] = []

    async def run() -> T:
        cache = ImageCache(
            create_store(settings),
            ttl_seconds=settings.cache_ttl,
            scope=settings.cache_scope,
            on_fault=faults.append,
        )
        try:
            return await work(cache)
        finally:
            await cache.aclose()

    try:
        done = asyncio.run(run())
    except CacheUnavailableError as error:
        fail(settings, error.fault.reason)
    fatal = [fault.reason for fault in faults if fault.reason != "damaged" and fault.operation != "close"]
    if fatal:
        fail(settings, fatal[0])
    if faults:
        typer.echo(f"{len(faults)} entries could not be read and were passed over.", err=True)
    return done


def fail(settings: Settings, reason: str) -> NoReturn:
    """Say that the cache cannot be used.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError(f"The cache ({settings.cache_backend}) cannot be used: {reason}.")
