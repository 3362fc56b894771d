"""`ImageClient.generate()`: the one path from a wish to pictures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from sfumato.cache.image_cache import ImageCache
from sfumato.engine.attempts import out_of_time
from sfumato.engine.intake import Intake
from sfumato.engine.slots import UNEXPECTED, Run, Slots
from sfumato.errors import ImageError, InternalError
from sfumato.images.request import CacheStatus, GeneratedImage, ImageRequest, ImageResult, Timings
from sfumato.images.resolution import ImageWish, InputImages, RequestPolicy, resolve
from sfumato.images.safety import Threshold
from sfumato.telemetry.observer import Call, Observer, OperationRecord, note_refusal, observed
from sfumato.upstream.accounts import Account

_log = logging.getLogger("sfumato")


class ImageClient:
    """Make pictures: cache, flight, attempts, cache; n at a time.

    Build one with `sfumato.runtime.Runtime`, which wires the parts from settings. It belongs to one event loop.

    Args:
        policy: The operator's decisions.
        intake: Reads input pictures.
        slots: Fills a request's slots.
        observer: Sees every request.
        timeout_seconds: Deadline of a request that names none.
        hash_salt: Keys the hashes of prompts and users in telemetry.
        clock: Monotonic seconds.
        on_close: Releases what the parts hold, after the cache.
    """

    def __init__(
        self,
        *,
        policy: RequestPolicy,
        intake: Intake,
        slots: Slots,
        observer: Observer,
        timeout_seconds: float,
        hash_salt: str | None,
        clock: Callable[[], float],
        on_close: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self._policy = policy
        self._intake = intake
        self._slots = slots
        self._observer = observer
        self._timeout_seconds = timeout_seconds
        self._hash_salt = hash_salt
        self._clock = clock
        self._on_close = on_close

    async def generate(
        self,
        wish: ImageWish,
        *,
        call: Call,
        floor: Threshold | None = None,
        account: Account | None = None,
        timeout_seconds: float | None = None,
    ) -> ImageResult:
        """Make the pictures that *wish* asks for.

        Args:
            wish: What the client asked.
            call: Where the request came from.
            floor: A safety floor of the tenant, beside the operator's.
            account: The caller's own account; the pool's keys are then not used.
            timeout_seconds: A deadline shorter than the configured one.

        Returns:
            At least one picture; with n > 1 the failures of the others stand beside them.

        Raises:
            ImageError: No picture came; of several errors the one that ranks highest (blocked > quota > rest).
        """
        started = self._clock()
        timeout = min(self._timeout_seconds, timeout_seconds or self._timeout_seconds)
        record = OperationRecord(
            call=call, operation=wish.operation.value, model=wish.variant.name, tenant=wish.tenant, n=wish.n
        )
        with observed(self._observer, record, clock=self._clock) as operation:
            try:
                inputs = await self._admit(wish, timeout)
                request = resolve(wish, self._policy.with_floor(floor), inputs)
                record.describe_request(request, salt=self._hash_salt)
                run = Run(request, operation, record, account, started + timeout)
                images = await self._slots.fill(run)
            except ImageError:
                raise
            except Exception as error:
                _log.exception("Request %s failed unexpectedly", call.request_id)
                raise InternalError(UNEXPECTED) from error
            result = self._result(run, images, started)
            record.describe_result(result)
            return result

    def refuse(
        self, error: ImageError, *, call: Call, operation: str, model: str | None = None, tenant: str | None = None
    ) -> None:
        """Note in telemetry a request that ended before it became a wish."""
        record = OperationRecord(call=call, operation=operation, model=model, tenant=tenant)
        note_refusal(self._observer, record, error)

    @property
    def policy(self) -> RequestPolicy:
        """Return the decisions that requests are resolved under."""
        return self._policy

    @property
    def cache(self) -> ImageCache:
        """Return the cache, for whoever administers it."""
        return self._slots.cache

    async def aclose(self) -> None:
        """Release leases, stores and connections, in this order: leases may use the store's connection."""
        await self._slots.flights.aclose()
        await self._slots.cache.aclose()
        for close in self._on_close:
            await close()

    async def _admit(self, wish: ImageWish, timeout_seconds: float) -> InputImages:
        try:
            # Listed hosts may be slow: fetching counts against the deadline like everything else.
            async with asyncio.timeout(timeout_seconds):
                return await self._intake.admit(wish)
        except TimeoutError:
            raise out_of_time() from None

    def _result(self, run: Run, images: list[GeneratedImage], started: float) -> ImageResult:
        request, cache = run.request, self._slots.cache
        return ImageResult(
            request=request,
            images=tuple(images),
            failures=tuple(run.failures),
            cache_status=_cache_status(request, images, enabled=cache.enabled),
            cache_key=cache.key(request, 0) if cache.enabled else None,
            cache_ttl_seconds=cache.ttl_seconds(request) if run.stored else None,
            retries=run.record.retry_count,
            timings=Timings(cache=run.cache_seconds, upstream=run.upstream_seconds, total=self._clock() - started),
            created=int(min(image.created for image in images)),
        )


def _cache_status(request: ImageRequest, images: list[GeneratedImage], *, enabled: bool) -> CacheStatus:
    if not enabled:
        return CacheStatus.OFF
    if request.cache_control.no_cache:
        return CacheStatus.BYPASS
    hits = sum(image.age_seconds is not None for image in images)
    if hits == 0:
        return CacheStatus.MISS
    return CacheStatus.HIT if hits == request.n else CacheStatus.PARTIAL
