"""`ImageClient.generate()`: the one path from a wish to pictures."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sfumato.cache.image_cache import ImageCache
from sfumato.cache.vitals import CacheVitals
from sfumato.engine.attempts import out_of_time
from sfumato.engine.idempotency import Idempotency
from sfumato.engine.intake import Intake
from sfumato.engine.presence import Presence
from sfumato.engine.runs import Run
from sfumato.engine.slots import Slots
from sfumato.errors import ImageError, InternalError, OverloadedError
from sfumato.images.request import CacheStatus, GeneratedImage, ImageRequest, ImageResult, Timings
from sfumato.images.resolution import ImageWish, RequestPolicy, resolve
from sfumato.images.safety import Threshold
from sfumato.telemetry.observer import Call, Observer, Operation, OperationRecord, begin, followed, note_refusal
from sfumato.upstream.account_states import AccountState
from sfumato.upstream.accounts import Account, AccountPool

_log = logging.getLogger("sfumato")
# Pictures that are answered are stored even where running work has no time left.
_STORE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Visit:
    """One call of `ImageClient.generate`."""

    wish: ImageWish
    call: Call
    floor: Threshold | None
    account: Account | None
    deadline: float
    record: OperationRecord
    operation: Operation
    presence: Presence


class ImageClient:
    """Make pictures: cache, flight, attempts, cache; n at a time.

    Build one with `sfumato.runtime.Runtime`, which wires the parts from settings. It belongs to one event loop.

    Args:
        policy: The operator's decisions.
        intake: Reads input pictures.
        slots: Fills a request's slots.
        idempotency: Knows which request an ``Idempotency-Key`` stands for.
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
        idempotency: Idempotency,
        observer: Observer,
        timeout_seconds: float,
        hash_salt: str | None,
        clock: Callable[[], float],
        on_close: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self._policy = policy
        self._intake = intake
        self._slots = slots
        self._idempotency = idempotency
        self._observer = observer
        self._timeout_seconds = timeout_seconds
        self._hash_salt = hash_salt
        self._clock = clock
        self._on_close = on_close
        self._draining = False
        self._closed = False

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

        Cancel it when the client leaves: what waits ends, and what upstream renders by then goes on in the background,
        is stored, and is found by the client's next try.

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
        if self._draining:
            raise self._turned_away(wish, call)
        timeout = min(self._timeout_seconds, timeout_seconds or self._timeout_seconds)
        record = OperationRecord(
            call=call, operation=wish.operation.value, model=wish.variant.name, tenant=wish.tenant, n=wish.n
        )
        # Begun here, in the context of the request that it belongs to; the work itself has a context of its own.
        operation = begin(self._observer, record)
        presence = Presence()
        visit = _Visit(wish, call, floor, account, self._clock() + timeout, record, operation, presence)
        task = self._slots.work.start(self._serve(visit))
        try:
            # Not `asyncio.shield`: since Python 3.14 it logs the error of what its waiter left.
            await asyncio.wait([task])
            return task.result()
        except asyncio.CancelledError:
            if task.cancelled():
                raise shutting_down() from None
            if not task.done():
                record.abandoned = True
                presence.leave()
            elif task.exception() is None:
                # It was ready in the very moment in which the client left.
                self.keep(task.result(), call=call)
            raise

    async def _serve(self, visit: _Visit) -> ImageResult:
        call, record, started = visit.call, visit.record, self._clock()
        with followed(visit.operation, record, clock=self._clock):
            try:
                with visit.presence.waiting():
                    run = await self._admit(visit)
                images = await self._slots.fill(run)
            except ImageError:
                raise
            except asyncio.CancelledError:
                if visit.presence.left:
                    raise
                # The client waits still: it is the server that ends.
                raise shutting_down() from None
            except Exception as error:
                _log.exception("Request %s failed unexpectedly", call.request_id)
                raise InternalError from error
            result = self._result(run, images, started)
            record.describe_result(result)
            return result

    async def _admit(self, visit: _Visit) -> Run:
        """Resolve the wish, and tie it to its ``Idempotency-Key``."""
        try:
            # Listed hosts may be slow: fetching counts against the deadline like everything else.
            async with asyncio.timeout(max(0.0, visit.deadline - self._clock())):
                return await self._resolve(visit)
        except TimeoutError:
            raise out_of_time() from None

    async def _resolve(self, visit: _Visit) -> Run:
        wish, call = visit.wish, visit.call
        policy = self._policy.with_floor(visit.floor)
        if visit.account is not None:
            policy = dataclasses.replace(policy, backend=visit.account.backend)
        inputs = await self._intake.admit(wish)
        request = resolve(wish, policy, inputs)
        visit.record.describe_request(request, salt=self._hash_salt)
        caller = call.caller or request.tenant or ""
        key = call.idempotency_key
        return Run(
            request=request,
            operation=visit.operation,
            record=visit.record,
            caller=caller,
            account=visit.account,
            deadline=visit.deadline,
            presence=visit.presence,
            repetition=None if key is None else await self._idempotency.begin(key, request, caller=caller),
        )

    def keep(self, result: ImageResult, *, call: Call) -> None:
        """Hold an answer that did not reach its caller, where the cache will not give it out when it asks again."""
        # Under a key they are kept already.
        if call.idempotency_key is None:
            request = result.request
            self._slots.keep_undelivered(request, result.images, caller=call.caller or request.tenant or "")

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

    @property
    def accounts(self) -> AccountPool:
        """Return the pool of accounts, for whoever administers it."""
        return self._slots.studio.attempts.accounts

    def account_states(self) -> tuple[AccountState, ...]:
        """Tell how the accounts are, for gauges; a closed client has none."""
        return () if self._closed else self.accounts.states()

    def cache_vitals(self) -> CacheVitals:
        """Return what is counted of the cache, for gauges."""
        return self.cache.vitals

    async def settle(self) -> None:
        """Wait until what has been answered is stored, for whoever looks into the cache."""
        await self._slots.stores.settle()

    async def aclose(self, *, grace_seconds: float = 0.0) -> None:
        """Let running work finish, then release leases, stores and connections, in this order.

        Args:
            grace_seconds: How long running work may take; what is not done by then is ended.
        """
        self._draining = True
        stop_at = self._clock() + grace_seconds
        ended = await self._slots.work.drain(grace_seconds)
        ended += await self._slots.stores.drain(max(_STORE_SECONDS, stop_at - self._clock()))
        if ended:
            _log.warning("%d pictures or stores were not finished in time and have been ended.", ended)
        try:
            await self._slots.flights.aclose()
            await self._slots.cache.aclose()
            for close in self._on_close:
                await close()
        finally:
            self._closed = True

    def _turned_away(self, wish: ImageWish, call: Call) -> ImageError:
        error = shutting_down()
        self.refuse(error, call=call, operation=wish.operation.value, model=wish.variant.name, tenant=wish.tenant)
        return error

    def _result(self, run: Run, images: list[GeneratedImage], started: float) -> ImageResult:
        request, cache = run.request, self._slots.cache
        return ImageResult(
            request=request,
            images=tuple(images),
            failures=tuple(run.failures),
            cache_status=_cache_status(request, images, enabled=cache.enabled),
            cache_key=cache.key(request, 0) if cache.enabled else None,
            cache_ttl_seconds=cache.ttl_seconds(request) if run.promised else None,
            retries=run.record.retry_count,
            timings=Timings(
                queue=run.queue_seconds,
                cache=run.cache_seconds,
                upstream=run.upstream_seconds,
                total=self._clock() - started,
            ),
            created=int(min(image.created for image in images)),
        )


def shutting_down() -> OverloadedError:
    """Return the error of a request that comes after the signal to stop."""
    return OverloadedError(
        "This server is shutting down. Send the request again: another one will answer.", reason="shutting_down"
    )


def _cache_status(request: ImageRequest, images: list[GeneratedImage], *, enabled: bool) -> CacheStatus:
    if not enabled:
        return CacheStatus.OFF
    hits = sum(image.age_seconds is not None for image in images)
    if hits == 0 and request.cache_control.no_cache:
        return CacheStatus.BYPASS
    if hits == 0:
        return CacheStatus.MISS
    return CacheStatus.HIT if hits == request.n else CacheStatus.PARTIAL
