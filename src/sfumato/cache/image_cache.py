"""The cache as the engine sees it: pictures by request and slot, where every fault of a store is a miss."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sfumato.cache.entry import DamagedEntryError, EntryHeader, dump
from sfumato.cache.faults import CacheFault, CacheOperation, CacheUnavailableError, FutureEntryError, reason_of
from sfumato.cache.invalidation import EVERY_ENTRY, EntryFilter, find_entries, find_keys
from sfumato.cache.noop import NoopStore
from sfumato.cache.store import Store, StoreStats
from sfumato.cache.threads import run_whole
from sfumato.cache.unpacking import unpack
from sfumato.cache.vitals import CacheVitals
from sfumato.images.fingerprint import fingerprint
from sfumato.images.request import GeneratedImage, ImageRequest, Picture
from sfumato.wire.payload import INLINE_BYTES, Pieces, picture_bytes

__all__ = ["CacheFault", "CacheOperation", "CacheStats", "CacheUnavailableError", "ImageCache", "Scope"]

T = TypeVar("T")
Scope = Literal["global", "tenant"]
# Hosts that share a store may disagree about the time by this much before an entry counts as from the future.
CLOCK_SLACK_SECONDS = 300.0
# How old the store's size may be when a picture is stored: looking costs 35 ms of a thread for 10,000 files.
_LOOK_SECONDS = 60.0

_log = logging.getLogger("sfumato.cache")


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

    def describe(self) -> dict[str, Any]:
        """Return all of it for JSON; what the store holds is null when it cannot say."""
        names = ("entries", "size_bytes", "capacity_bytes", "evictions")
        mine = {name: getattr(self, name) for name in ("lookups", "hits", "misses", "hit_rate", "faults")}
        return mine | {name: getattr(self.store, name, None) for name in names}


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
        self.vitals = CacheVitals()
        self._looked_at = -math.inf
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

    def asks(self, request: ImageRequest) -> bool:
        """Tell whether *request* looks for its pictures here: not with ``no_cache``, nor where nothing is stored."""
        return self.enabled and not request.cache_control.no_cache

    async def lookup(self, request: ImageRequest, slot: int, *, counted: bool = True) -> GeneratedImage | None:
        """Return the stored picture with its age, or None; large ones stay where they are stored until they are sent.

        Where `asks` says no, the answer is None without asking the store, and counts as no lookup.

        Args:
            request: What is asked for.
            slot: Which of the n pictures.
            counted: Count the hit or miss; False where the caller notes in `vitals` what became of the picture, which
                may come of a second look, or of another request that is making it.
        """
        if not self.asks(request):
            return None
        image = await self._attempt("lookup", self._find(request, slot))
        if counted:
            self.vitals.note_lookup(hit=image is not None)
        return image

    async def store(self, request: ImageRequest, image: GeneratedImage) -> bool:
        """Store a fresh picture under its slot; True when it is kept.

        Not kept are pictures that came from the cache, answers to ``no_store``, and pictures larger than the store.
        """
        ttl = self.ttl_seconds(request)
        if ttl is None or image.age_seconds is not None:
            return False
        stored = await self._attempt("store", self._keep(request, image, ttl)) or False
        if abs(self._clock() - self._looked_at) >= _LOOK_SECONDS:
            await self.look()
        return stored

    async def look(self) -> None:
        """Look at the store for `vitals`, which say nothing of its size before the first look or picture stored."""
        self._looked_at = self._clock()
        try:
            self.vitals.note_store(await self._store.stats())
        except Exception:  # noqa: BLE001 - nobody asked: what fails for a request is counted there
            self.vitals.note_store(None)

    async def invalidate(self, where: EntryFilter | str) -> int | None:
        """Remove the pictures meant by a filter, or by a key (without its slot: all slots).

        Returns:
            How many were removed; None when the store failed, and then some may be gone.
        """
        meant = EntryFilter(key=where) if isinstance(where, str) else where
        removed = await self._attempt("invalidate", self._remove(meant))
        await self.look()
        return removed

    async def clear(self) -> int | None:
        """Remove every picture; return how many there were, None when the store failed."""
        removed = await self._attempt("clear", self._store.clear())
        await self.look()
        return removed

    async def entries(
        self, where: EntryFilter = EVERY_ENTRY, *, limit: int | None = None
    ) -> AsyncIterator[EntryHeader]:
        """Iterate over what is known of stored pictures, at most *limit*, in no order; it counts as no lookup.

        Only the beginning of an entry is read, which is no use of it. Unreadable ones are passed over; damage within a
        picture is found when it is looked up.

        Raises:
            CacheUnavailableError: The store failed.
        """
        left = math.inf if limit is None else limit
        damaged = functools.partial(self._report, "list")
        found = find_entries(self._store, where, clock=self._clock, on_damaged=damaged)
        with self._listing():
            async with contextlib.aclosing(found):
                while left > 0 and (header := await anext(found, None)) is not None:
                    left -= 1
                    yield header

    async def get(self, key: str) -> EntryHeader | None:
        """Return what is known of the picture under an exact *key*, None when there is none.

        Raises:
            CacheUnavailableError: The store failed.
        """
        async for header in self.entries(EntryFilter(key=key)):
            if header.key == key:
                return header
        return None

    async def held(self, keys: Collection[str]) -> frozenset[str]:
        """Return those of *keys* that the store lists, without reading pictures.

        Raises:
            CacheUnavailableError: The store failed.
        """
        with self._listing():
            return frozenset([key async for key in self._store.keys() if key in keys])  # noqa: SIM118 - no mapping

    async def stats(self) -> CacheStats:
        """Count this process's lookups and what the store holds."""
        held = await self._attempt("stats", self._store.stats())
        self.vitals.note_store(held)
        vitals = self.vitals
        return CacheStats(lookups=vitals.lookups, hits=vitals.hits, faults=vitals.fault_count, store=held)

    async def aclose(self) -> None:
        """Close the store."""
        await self._attempt("close", self._store.aclose())

    async def _attempt(self, operation: CacheOperation, work: Awaitable[T]) -> T | None:
        """Return what *work* gives; None when it fails, and the fault is counted."""
        try:
            result = await work
        except Exception as error:  # noqa: BLE001 - whatever a store does, the request goes on
            self._report(operation, error)
            return None
        self._recover(operation)
        return result

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the fault is counted and told by its reason
            raise CacheUnavailableError(self._report("list", error)) from None
        self._recover("list")

    async def _keep(self, request: ImageRequest, image: GeneratedImage, ttl_seconds: float) -> bool:
        key = self.key(request, image.slot)

        def pieces() -> Pieces:
            return dump(image, request, key=key, ttl_seconds=ttl_seconds)

        value = await _run(pieces, size=picture_bytes(image.picture))
        return await self._store.set(key, value, expires_in=ttl_seconds)

    async def _remove(self, where: EntryFilter) -> int:
        removed = 0
        damaged = functools.partial(self._report, "invalidate")
        async for keys in find_keys(self._store, where, clock=self._clock, on_damaged=damaged):
            removed += sum(await asyncio.gather(*map(self._store.delete, keys)))
        return removed

    async def _find(self, request: ImageRequest, slot: int) -> GeneratedImage | None:
        key = self.key(request, slot)
        value = await self._store.get(key)
        if value is None:
            return None
        try:
            header, raw = await unpack(value, key)
        except DamagedEntryError:
            await self._store.delete(key)
            raise
        elapsed = self._clock() - header.created
        if elapsed < -CLOCK_SLACK_SECONDS:
            raise FutureEntryError
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

    def _report(self, operation: CacheOperation, error: Exception) -> CacheFault:
        fault = CacheFault(operation, reason_of(error))
        self.vitals.note_fault(fault)
        if operation not in self._failing:
            self._failing.add(operation)
            _log.warning("Cache %s failed (%s); requests go on without it.", operation, fault.reason)
        if self._on_fault is not None:
            self._on_fault(fault)
        return fault

    def _recover(self, operation: CacheOperation) -> None:
        if operation in self._failing:
            self._failing.remove(operation)
            _log.info("Cache %s works again.", operation)


async def _run(work: Callable[[], T], *, size: int) -> T:
    """Do *work* on *size* bytes, in a thread when it would hold up the event loop."""
    return work() if size <= INLINE_BYTES else await run_whole(work)
