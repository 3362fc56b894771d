"""The cache as the engine sees it: pictures by request and slot, where every fault of a store is a miss."""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from anyio import to_thread

from sfumato.cache.entry import DamagedEntryError, EntryHeader, dump, load
from sfumato.cache.noop import NoopStore
from sfumato.cache.store import DamagedValueError, Store, StoreStats
from sfumato.images.fingerprint import fingerprint
from sfumato.images.request import GeneratedImage, ImageRequest, Picture
from sfumato.wire.payload import INLINE_BYTES, Pieces, picture_bytes

T = TypeVar("T")
Scope = Literal["global", "tenant"]
CacheOperation = Literal["lookup", "store", "invalidate", "clear", "stats", "close"]
# Hosts that share a store may disagree about the time by this much before an entry counts as from the future.
CLOCK_SLACK_SECONDS = 300.0

_log = logging.getLogger("sfumato.cache")


@dataclass(frozen=True, slots=True)
class CacheFault:
    """Something went wrong in the cache and the request went on.

    Attributes:
        operation: What was being done.
        reason: A low-cardinality word: ``damaged``, ``clock``, an errno's name (``ENOSPC``) or an exception's class.
    """

    operation: CacheOperation
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What this process saw of the cache since it began.

    Attributes:
        lookups: Hits and misses; bypassed lookups do not count.
        faults: Faults of any operation; a lookup's fault is a miss as well.
        store: What the store holds, for all processes that share it; None when it cannot say.
    """

    lookups: int = 0
    hits: int = 0
    faults: int = 0
    store: StoreStats | None = None

    @property
    def misses(self) -> int:
        """Return the lookups that found nothing to serve."""
        return self.lookups - self.hits

    @property
    def hit_rate(self) -> float:
        """Return the share of lookups that hit, 0 to 1; 0 before the first."""
        return self.hits / self.lookups if self.lookups else 0.0


class ImageCache:
    """Look up and store pictures; no fault of the store ever fails a request.

    Cancellation passes through every method.

    Args:
        store: The backend; a `NoopStore` switches the cache off. Closed by `aclose`.
        ttl_seconds: How long a picture is served when the request does not say, above 0 and finite.
        scope: ``tenant`` keeps the pictures of tenants apart; requests without one share a place of their own.
        clock: Unix seconds.
        on_fault: Called at each fault, on the caller's task; it must not raise.
    """

    def __init__(
        self,
        store: Store,
        *,
        ttl_seconds: float,
        scope: Scope = "global",
        clock: Callable[[], float] = time.time,
        on_fault: Callable[[CacheFault], None] | None = None,
    ) -> None:
        if not 0 < ttl_seconds < math.inf:
            raise ValueError("ttl_seconds must be above 0 and finite")
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._scope = scope
        self._clock = clock
        self._on_fault = on_fault
        self._lookups = self._hits = self._faults = 0
        self._failing: set[CacheOperation] = set()

    @property
    def enabled(self) -> bool:
        """Tell whether pictures can be stored at all."""
        return not isinstance(self._store, NoopStore)

    def key(self, request: ImageRequest, slot: int) -> str:
        """Return the cache key of one picture, with the tenant in it only when scoped by tenant."""
        return fingerprint(request, slot=slot, tenant=request.tenant if self._scope == "tenant" else None)

    def ttl_seconds(self, request: ImageRequest) -> float | None:
        """Return how long pictures of *request* are kept, None when they are not stored."""
        control = request.cache_control
        ttl = self._ttl_seconds if control.ttl_seconds is None else control.ttl_seconds
        return ttl if self.enabled and not control.no_store and 0 < ttl < math.inf else None

    async def lookup(self, request: ImageRequest, slot: int, *, again: bool = False) -> GeneratedImage | None:
        """Return the stored picture with raw bytes and its age, or None.

        ``no_cache`` answers None without asking the store, and counts as no lookup.

        Args:
            request: What is asked for.
            slot: Which of the n pictures.
            again: The request looked already, and missed: a second look is not counted as a lookup of its own.
        """
        if not self.enabled or request.cache_control.no_cache:
            return None
        self._lookups += not again
        try:
            image = await self._find(request, slot)
        except Exception as error:  # noqa: BLE001 - whatever a store does, the request goes on
            self._report("lookup", error)
            return None
        self._recover("lookup")
        self._hits += image is not None
        return image

    async def store(self, request: ImageRequest, image: GeneratedImage) -> bool:
        """Store a fresh picture under its slot; True when it is kept.

        Not kept are pictures that came from the cache, answers to ``no_store``, and pictures larger than the store.
        """
        ttl = self.ttl_seconds(request)
        if ttl is None or image.age_seconds is not None:
            return False
        key = self.key(request, image.slot)

        def pieces() -> Pieces:
            return dump(image, request, key=key, ttl_seconds=ttl)

        try:
            value = await _run(pieces, size=picture_bytes(image.picture))
            kept = await self._store.set(key, value, expires_in=ttl)
        except Exception as error:  # noqa: BLE001 - whatever a store does, the request goes on
            self._report("store", error)
            return False
        self._recover("store")
        return kept

    async def invalidate(self, key: str) -> bool | None:
        """Remove one picture; True when there was one, None when the store failed."""
        try:
            removed = await self._store.delete(key)
        except Exception as error:  # noqa: BLE001 - the fault is counted and told by None
            self._report("invalidate", error)
            return None
        self._recover("invalidate")
        return removed

    async def clear(self) -> int | None:
        """Remove every picture; return how many there were, None when the store failed."""
        try:
            count = await self._store.clear()
        except Exception as error:  # noqa: BLE001 - the fault is counted and told by None
            self._report("clear", error)
            return None
        self._recover("clear")
        return count

    async def stats(self) -> CacheStats:
        """Count this process's lookups and what the store holds."""
        held: StoreStats | None = None
        try:
            held = await self._store.stats()
        except Exception as error:  # noqa: BLE001 - the fault is counted and told by None
            self._report("stats", error)
        else:
            self._recover("stats")
        return CacheStats(lookups=self._lookups, hits=self._hits, faults=self._faults, store=held)

    async def aclose(self) -> None:
        """Close the store."""
        try:
            await self._store.aclose()
        except Exception as error:  # noqa: BLE001 - a process that ends has nobody to tell
            self._report("close", error)

    async def _find(self, request: ImageRequest, slot: int) -> GeneratedImage | None:
        key = self.key(request, slot)
        data = await self._store.get(key)
        if data is None:
            return None
        try:
            header, raw = await _run(lambda: _unpack(data, key), size=len(data))
        except DamagedEntryError:
            await self._store.delete(key)
            raise
        elapsed = self._clock() - header.created
        if elapsed < -CLOCK_SLACK_SECONDS:
            raise _FutureEntryError
        age = max(0.0, elapsed)
        max_age = request.cache_control.max_age_seconds
        # RFC 9111 takes an answer whose age equals max-age; 0 is how clients ask for a fresh one all the same.
        if age >= header.ttl_seconds or (max_age is not None and (age > max_age or max_age <= 0)):
            return None
        return GeneratedImage(
            slot=slot,
            picture=Picture(raw=raw, mime_type=header.mime_type, width=header.width, height=header.height),
            usage=header.usage,
            price_usd=header.price_usd,
            created=header.created,
            age_seconds=age,
        )

    def _report(self, operation: CacheOperation, error: Exception) -> None:
        fault = CacheFault(operation, _reason(error))
        self._faults += 1
        if operation not in self._failing:
            self._failing.add(operation)
            _log.warning("Cache %s failed (%s); requests go on without it.", operation, fault.reason)
        if self._on_fault is not None:
            self._on_fault(fault)

    def _recover(self, operation: CacheOperation) -> None:
        if operation in self._failing:
            self._failing.remove(operation)
            _log.info("Cache %s works again.", operation)


class _FutureEntryError(Exception):
    """An entry was made later than now: the clock was set back, so its age cannot be known."""


def _unpack(data: bytes, key: str) -> tuple[EntryHeader, bytes]:
    header, raw = load(data)
    if header.key != key:
        raise DamagedEntryError("the entry is of another key")
    return header, bytes(raw)


async def _run(work: Callable[[], T], *, size: int) -> T:
    """Do *work* on *size* bytes, in a thread when it would hold up the event loop."""
    return work() if size <= INLINE_BYTES else await to_thread.run_sync(work)


def _reason(error: Exception) -> str:
    # An exception's text may hold paths or addresses; its kind never does.
    if isinstance(error, DamagedValueError):
        return "damaged"
    if isinstance(error, _FutureEntryError):
        return "clock"
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, "OSError")
    return type(error).__name__
