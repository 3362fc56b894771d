"""The composition root: settings to transport, accounts, cache and observer to `ImageClient`, per event loop."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import weakref
from typing import TYPE_CHECKING

import httpx

from sfumato.cache.factory import cache_directory, create_redis, create_store
from sfumato.cache.image_cache import ImageCache
from sfumato.engine.attempts import Attempts
from sfumato.engine.client import ImageClient
from sfumato.engine.coordination import Leases, LocalLeases
from sfumato.engine.flights import Flights
from sfumato.engine.intake import Intake
from sfumato.engine.slots import Slots
from sfumato.errors import ConfigurationError
from sfumato.pictures.inspect import ImageLimits
from sfumato.settings import MEGABYTE, Settings, load_settings, unknown_variables, variable_names
from sfumato.telemetry.logs import RequestLog
from sfumato.telemetry.observer import Observer
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.fetch import PictureFetcher
from sfumato.upstream.retry import RetryPolicy
from sfumato.upstream.transport import GeminiTransport, create_http_client

if TYPE_CHECKING:
    from sfumato.cache.redis import RedisConnection

_log = logging.getLogger("sfumato")


class Runtime:
    """Own everything that lives as long as a process; hand out one `ImageClient` per event loop.

    Args:
        settings: The configuration, the environment's by default.
        observer: Sees every request; the request log by default.

    Raises:
        ConfigurationError: The settings are invalid or ask for something that this version does not have.
    """

    def __init__(self, settings: Settings | None = None, *, observer: Observer | None = None) -> None:
        self.settings = settings or load_settings()
        self._observer = observer or RequestLog()
        self._accounts = tuple(
            Account.at(label, secret.get_secret_value(), self.settings.api_base, self.settings.api_version)
            for label, secret in self.settings.accounts
        )
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, ImageClient] = weakref.WeakKeyDictionary()
        _refuse_unavailable(self.settings)
        # A cache that cannot be built is known at the start and not at the first request; nothing is connected to.
        create_store(self.settings)
        for name, closest in unknown_variables():
            _log.warning("The variable %s means nothing to sfumato. Did you mean %s?", name, closest)

    @property
    def client(self) -> ImageClient:
        """Return the running event loop's client, built at the first call."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = self._build()
        return self._clients[loop]

    def account(self, api_key: str, api_base: str | None = None) -> Account:
        """Return a caller's own account, at the configured base unless it names one."""
        settings = self.settings
        return Account.at("request", api_key, api_base or settings.api_base, settings.api_version)

    async def aclose(self) -> None:
        """Close the running event loop's client."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _build(self) -> ImageClient:
        settings = self.settings
        max_request_bytes = int(settings.max_request_mb * MEGABYTE)
        redis = create_redis(settings)
        store = create_store(settings, redis)
        http = create_http_client(connect_timeout_seconds=settings.connect_timeout_seconds)
        return ImageClient(
            policy=settings.policy,
            intake=Intake(
                limits=ImageLimits(max_pixels=settings.max_input_pixels, max_bytes=max_request_bytes),
                max_request_bytes=max_request_bytes,
                fetcher=PictureFetcher(http, hosts=settings.fetch_hosts, max_bytes=max_request_bytes),
            ),
            slots=Slots(
                cache=ImageCache(store, ttl_seconds=settings.cache_ttl, scope=settings.cache_scope),
                flights=Flights(create_leases(settings, redis), clock=time.monotonic),
                attempts=self._attempts(http),
                max_request_bytes=max_request_bytes,
                clock=time.monotonic,
                wall_clock=time.time,
            ),
            observer=self._observer,
            timeout_seconds=settings.timeout_seconds,
            hash_salt=settings.hash_salt.get_secret_value() if settings.hash_salt else None,
            clock=time.monotonic,
            on_close=(http.aclose, *([redis.aclose] if redis else [])),
        )

    def _attempts(self, http: httpx.AsyncClient) -> Attempts:
        settings = self.settings
        return Attempts(
            transport=GeminiTransport(http, max_response_bytes=int(settings.max_response_mb * MEGABYTE)),
            accounts=AccountPool(self._accounts),
            retry=RetryPolicy(max_attempts=settings.max_attempts),
            clock=time.monotonic,
            sleep=asyncio.sleep,
            random=random.random,
        )


def create_leases(settings: Settings, redis: RedisConnection | None) -> Leases:
    """Create what coordinates the processes that share the configured cache.

    Args:
        settings: The configuration.
        redis: The store's connection, whose circuit the leases then share.
    """
    if redis is not None:
        from sfumato.engine.redis_leases import RedisLeases  # noqa: PLC0415  # an extra, loaded when it is asked for

        return RedisLeases(redis)
    if settings.cache_enabled and settings.cache_backend == "filesystem":
        from sfumato.engine.file_leases import FileLeases  # noqa: PLC0415  # it needs fcntl, which Windows lacks

        return FileLeases(cache_directory(settings) / "leases", clock=time.monotonic)
    return LocalLeases()


def _refuse_unavailable(settings: Settings) -> None:
    """Refuse what this version does not do: a setting without its effect would mislead whoever set it."""
    asked = {
        "url_mode": settings.url_mode == "link",
        "accounts_file": settings.accounts_file is not None,
        "prices_file": settings.prices_file is not None,
    }
    for field, unavailable in asked.items():
        if unavailable:
            value = getattr(settings, field)
            raise ConfigurationError(f"{variable_names(field)[0]}={value} is not available in this version.")
