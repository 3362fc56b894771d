"""The composition root: settings to transport, accounts, cache and observer to `ImageClient`, per event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from sfumato.cache.factory import cache_directory, check_redis, create_redis, create_store, shares_cache
from sfumato.cache.image_cache import ImageCache
from sfumato.engine.attempts import Attempts
from sfumato.engine.bulkhead import Bulkhead
from sfumato.engine.client import ImageClient
from sfumato.engine.coordination import Leases, LocalLeases
from sfumato.engine.flights import Flights
from sfumato.engine.idempotency import Idempotency
from sfumato.engine.intake import Intake
from sfumato.engine.keepsakes import Keepsakes
from sfumato.engine.notes import LocalNotes, Notes
from sfumato.engine.slots import Slots
from sfumato.engine.studio import Studio
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import ConfigurationError
from sfumato.images.models import Prices
from sfumato.images.prices import parse_prices
from sfumato.images.safety import Backend
from sfumato.pictures.inspect import ImageLimits
from sfumato.settings import MEGABYTE, Settings, load_settings, unknown_variables, variable_names
from sfumato.telemetry import configure, flush
from sfumato.telemetry.observer import NullObserver, NullOperation, Observer, ObserverGroup, Operation, OperationRecord
from sfumato.telemetry.variables import PROVIDERS, blamed, warn_once
from sfumato.upstream.account_file import build_accounts
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.cooling import CoolingBoard
from sfumato.upstream.fetch import PictureFetcher
from sfumato.upstream.retry import RetryPolicy
from sfumato.upstream.spool import Spool
from sfumato.upstream.transport import GeminiTransport, create_http_client
from sfumato.upstream.trials import TRIAL_SECONDS

if TYPE_CHECKING:
    from sfumato.cache.redis import RedisConnection
    from sfumato.engine.redis_cooling import RedisCoolingBoard

_log = logging.getLogger("sfumato")


class Runtime:
    """Own everything that lives as long as a process; hand out one `ImageClient` per event loop.

    Args:
        settings: The configuration, the environment's by default.
        observer: Sees every request; the request log and OpenTelemetry by default.
        export: Let the ``OTEL_*`` variables install OpenTelemetry's SDK, at the first request and unless somebody else
            has: for processes of our own and the LiteLLM provider, not inside of other programs.
        trial_seconds: How long a burst waits for what becomes of its first call on an account that is not known to
            work.

    Raises:
        ConfigurationError: The settings are invalid or ask for something that this version does not have.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        observer: Observer | None = None,
        export: bool = False,
        trial_seconds: float = TRIAL_SECONDS,
    ) -> None:
        self.settings = settings or load_settings()
        if observer is None:
            from sfumato.telemetry.otel import create_observer  # noqa: PLC0415  # it loads OpenTelemetry

            observer = create_observer(self.settings)
        self._observer = ObserverGroup([_Wiring(), observer]) if export else observer
        self.accounts, self._own_prices = check_settings(self.settings)
        self._trial_seconds = trial_seconds
        self._spool = Spool(self.settings.spool_dir, after_bytes=int(self.settings.spool_after_mb * MEGABYTE))
        self._stop_at: float | None = None
        self._clients: dict[asyncio.AbstractEventLoop, ImageClient] = {}

    @property
    def client(self) -> ImageClient:
        """Return the running event loop's client, built at the first call."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            # A client holds its loop, so one that ended without `aclose` would stay for ever.
            for ended in [known for known in self._clients if known.is_closed()]:
                del self._clients[ended]
            self._clients[loop] = self._build()
        return self._clients[loop]

    def account(self, api_key: str, api_base: str | None = None) -> Account:
        """Return a caller's own account, at the configured base unless it names one."""
        settings = self.settings
        return Account.at("request", api_key, api_base or settings.api_base, settings.api_version)

    @property
    def draining(self) -> bool:
        """Tell whether the process is about to end, so that doors take no more requests."""
        return self._stop_at is not None

    def begin_drain(self) -> None:
        """Give running work `GEMINI_IMAGE_GRACE_SECONDS` from now; doors take no more requests. For signal handlers."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self.settings.grace_seconds

    async def aclose(self) -> None:
        """Let the running event loop's work finish within the grace period, and close its client."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is None:
            return
        now = time.monotonic()
        stop_at = now + self.settings.grace_seconds if self._stop_at is None else self._stop_at
        await client.aclose(grace_seconds=max(0.0, stop_at - now))

    async def finish(self) -> None:
        """Close as `aclose` does, and send the last spans and metrics: for an app that another's server ends.

        Servers end by raising the signal again, and then nothing runs that was registered for the exit. A process that
        drains is ours, and does it when it ends.
        """
        try:
            await self.aclose()
        finally:
            if not self.draining:
                await asyncio.to_thread(flush)

    def _build(self) -> ImageClient:
        settings = self.settings
        max_request_bytes = int(settings.max_request_mb * MEGABYTE)
        redis = create_redis(settings)
        store = create_store(settings, redis)
        board = _create_board(redis)
        leases, notes = create_coordination(settings, redis)
        http = create_http_client(connect_timeout_seconds=settings.connect_timeout_seconds)
        work, stores = Supervisor(), Supervisor()
        client = ImageClient(
            policy=dataclasses.replace(settings.policy, backend=self._backend),
            intake=Intake(
                limits=ImageLimits(max_pixels=settings.max_input_pixels, max_bytes=max_request_bytes),
                max_request_bytes=max_request_bytes,
                fetcher=PictureFetcher(http, hosts=settings.fetch_hosts, max_bytes=max_request_bytes),
            ),
            slots=Slots(
                cache=ImageCache(store, ttl_seconds=settings.cache_ttl, scope=settings.cache_scope),
                flights=Flights(leases, supervisor=stores, clock=time.monotonic),
                studio=Studio(
                    bulkhead=Bulkhead(
                        max_concurrency=settings.max_concurrency, queue_size=settings.queue_size, clock=time.monotonic
                    ),
                    attempts=self._attempts(http, board),
                    work=work,
                    max_request_bytes=max_request_bytes,
                    own_prices=self._own_prices,
                    wall_clock=time.time,
                ),
                keepsakes=Keepsakes(clock=time.monotonic),
                work=work,
                stores=stores,
                clock=time.monotonic,
                wall_clock=time.time,
            ),
            idempotency=Idempotency(
                notes,
                fallback=LocalNotes(clock=time.monotonic),
                ttl_seconds=settings.idempotency_ttl_seconds,
                clock=time.time,
            ),
            observer=self._observer,
            timeout_seconds=settings.timeout_seconds,
            hash_salt=_salt(settings),
            clock=time.monotonic,
            on_close=(
                http.aclose,
                notes.aclose,
                *([board.aclose] if board else []),
                *([redis.aclose] if redis else []),
            ),
        )
        self._observe(client, http)
        return client

    def _observe(self, client: ImageClient, http: httpx.AsyncClient) -> None:
        try:
            from sfumato.telemetry.instrumentation import instrument  # noqa: PLC0415  # it loads OpenTelemetry

            instrument(http)
        except Exception as error:  # noqa: BLE001  # OpenTelemetry raises for a wrong variable, for some at import
            why = blamed(error, "OTEL_PROPAGATORS", *PROVIDERS)
            warn_once(f"OpenTelemetry cannot be used for calls ({why}). They have no spans, and Google no trace.")
        self._observer.watch(client)

    @property
    def _backend(self) -> Backend:
        """Return what requests may ask for: more than the Gemini API takes only where every account takes it."""
        backends: set[Backend] = {account.backend for account in self.accounts}
        if len(backends) == 1:
            return backends.pop()
        return "mixed" if backends else "gemini"

    def _attempts(self, http: httpx.AsyncClient, board: CoolingBoard | None) -> Attempts:
        settings = self.settings
        max_response_bytes = int(settings.max_response_mb * MEGABYTE)
        return Attempts(
            transport=GeminiTransport(http, max_response_bytes=max_response_bytes, spool=self._spool),
            accounts=AccountPool(self.accounts, board=board, trial_seconds=self._trial_seconds),
            retry=RetryPolicy(max_attempts=settings.max_attempts),
            attempt_timeout_seconds=settings.attempt_timeout_seconds,
            clock=time.monotonic,
            sleep=asyncio.sleep,
            random=random.random,
        )


class _Wiring(NullObserver):
    """Install OpenTelemetry's SDK at the first request: a client may be built before, for an administrator."""

    def begin(self, record: OperationRecord) -> Operation:
        """Install it, before others begin a span."""
        del record
        configure()
        return NullOperation()


def check_settings(settings: Settings) -> tuple[tuple[Account, ...], Mapping[str, Prices]]:
    """Return the accounts and own prices of a process with these settings, once all that it needs was found in order.

    What is wrong is so known at the start and not at the first request. Nothing is connected to. What is only odd goes
    to the log.

    Raises:
        ConfigurationError: No process can start with them.
    """
    if settings.url_mode == "link":
        # Without its effect it would mislead whoever set it.
        raise ConfigurationError(f"{variable_names('url_mode')[0]}=link is not available in this version.")
    accounts, own_prices = build_accounts(settings), _load_prices(settings.prices_file)
    create_store(settings)
    if check_redis(settings) is None and settings.redis_url is not None:
        _log.warning("REDIS_URL is set, but the extra 'redis' is not installed: accounts are not shared.")
    for name, closest in unknown_variables():
        _log.warning("The variable %s means nothing to sfumato. Did you mean %s?", name, closest)
    return accounts, own_prices


def create_coordination(settings: Settings, redis: RedisConnection | None) -> tuple[Leases, Notes]:
    """Create what processes that share the configured cache coordinate by: who calls upstream, and who used which key.

    Args:
        settings: The configuration.
        redis: The connection over which processes coordinate, whose circuit both then share.
    """
    if redis is not None and shares_cache(settings):
        from sfumato.engine.redis_leases import RedisLeases  # noqa: PLC0415  # an extra, loaded when it is asked for
        from sfumato.engine.redis_notes import RedisNotes  # noqa: PLC0415

        return RedisLeases(redis), RedisNotes(redis)
    if settings.cache_enabled and settings.cache_backend == "filesystem":
        from sfumato.engine.file_leases import FileLeases  # noqa: PLC0415  # they need fcntl, which Windows lacks
        from sfumato.engine.file_notes import FileNotes  # noqa: PLC0415

        directory = cache_directory(settings)
        return FileLeases(directory / "leases", clock=time.monotonic), FileNotes(directory / "notes")
    return LocalLeases(), LocalNotes(clock=time.monotonic)


def _load_prices(path: Path | None) -> Mapping[str, Prices]:
    if path is None:
        return {}
    name = variable_names("prices_file")[0]
    try:
        return parse_prices(path.read_text(encoding="utf-8"))
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error.message}") from None
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"{name}: the file cannot be read ({type(error).__name__}).") from None


def _salt(settings: Settings) -> str | None:
    return settings.hash_salt.get_secret_value() if settings.hash_salt else None


def _create_board(redis: RedisConnection | None) -> RedisCoolingBoard | None:
    if redis is None:
        return None
    from sfumato.engine.redis_cooling import RedisCoolingBoard  # noqa: PLC0415  # an extra, loaded when it is asked for

    return RedisCoolingBoard(redis)
