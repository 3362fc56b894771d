"""`ImageClient.generate()`: the one path from a wish to pictures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from anyio import to_thread

from sfumato.cache.image_cache import ImageCache
from sfumato.engine.attempts import Attempts, out_of_time
from sfumato.engine.finishing import finish
from sfumato.engine.intake import Intake
from sfumato.errors import ImageError, InternalError, PayloadTooLargeError, outranks
from sfumato.images.request import (
    CacheStatus,
    GeneratedImage,
    ImageRequest,
    ImageResult,
    SlotFailure,
    Timings,
)
from sfumato.images.resolution import ImageWish, InputImages, RequestPolicy, resolve
from sfumato.images.safety import Threshold
from sfumato.pictures.compose import check_original, mask_picture
from sfumato.telemetry.observer import Call, Observer, Operation, OperationRecord, note_refusal, observed
from sfumato.upstream.accounts import Account
from sfumato.wire.gemini import build_request
from sfumato.wire.payload import Piece, Pieces, encode_base64, size_of

_log = logging.getLogger("sfumato")
_UNEXPECTED = "Something failed here that should not. Tell the operator."


@dataclass(slots=True)
class _Run:
    """What the slots of one request share."""

    request: ImageRequest
    operation: Operation
    record: OperationRecord
    account: Account | None
    deadline: float
    cache_seconds: float = 0.0
    upstream_seconds: float = 0.0
    stored: bool = False
    inputs: asyncio.Task[tuple[Pieces, Piece | None]] | None = None
    failures: list[SlotFailure] = field(default_factory=list)


class ImageClient:
    """Make pictures: cache, attempts, cache; n at a time.

    Build one with `sfumato.runtime.Runtime`, which wires the parts from settings. It belongs to one event loop.

    Args:
        policy: The operator's decisions.
        intake: Reads input pictures.
        cache: Looks up and stores pictures.
        attempts: Calls upstream.
        observer: Sees every request.
        timeout_seconds: Deadline of a request that names none.
        max_request_bytes: Limit of one upstream body.
        hash_salt: Keys the hashes of prompts and users in telemetry.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
        on_close: Releases what the parts hold.
    """

    def __init__(
        self,
        *,
        policy: RequestPolicy,
        intake: Intake,
        cache: ImageCache,
        attempts: Attempts,
        observer: Observer,
        timeout_seconds: float,
        max_request_bytes: int,
        hash_salt: str | None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_close: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self._policy = policy
        self._intake = intake
        self._cache = cache
        self._attempts = attempts
        self._observer = observer
        self._timeout_seconds = timeout_seconds
        self._max_request_bytes = max_request_bytes
        self._hash_salt = hash_salt
        self._clock = clock
        self._wall_clock = wall_clock
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
                run = _Run(request, operation, record, account, started + timeout)
                images = await self._fill_slots(run)
            except ImageError:
                raise
            except Exception as error:
                _log.exception("Request %s failed unexpectedly", call.request_id)
                raise InternalError(_UNEXPECTED) from error
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

    async def aclose(self) -> None:
        """Release connections and stores."""
        await self._cache.aclose()
        for close in self._on_close:
            await close()

    async def _admit(self, wish: ImageWish, timeout_seconds: float) -> InputImages:
        try:
            # Listed hosts may be slow: fetching counts against the deadline like everything else.
            async with asyncio.timeout(timeout_seconds):
                return await self._intake.admit(wish)
        except TimeoutError:
            raise out_of_time() from None

    async def _fill_slots(self, run: _Run) -> list[GeneratedImage]:
        slots = range(run.request.n)
        try:
            outcomes = await asyncio.gather(*(self._fill_slot(run, slot) for slot in slots), return_exceptions=True)
        finally:
            if run.inputs is not None:
                run.inputs.cancel()
        images: list[GeneratedImage] = []
        for slot, outcome in zip(slots, outcomes, strict=True):
            if isinstance(outcome, GeneratedImage):
                images.append(outcome)
            elif isinstance(outcome, ImageError):
                run.failures.append(SlotFailure(slot, outcome))
            elif isinstance(outcome, Exception):
                # The pictures beside it are paid for: a defect in one slot must not lose them.
                _log.error("A picture failed unexpectedly", exc_info=outcome)
                run.failures.append(SlotFailure(slot, InternalError(_UNEXPECTED)))
            else:
                raise outcome
        if not images:
            worst = run.failures[0].error
            for failure in run.failures[1:]:
                worst = failure.error if outranks(failure.error, worst) else worst
            raise worst
        return images

    async def _fill_slot(self, run: _Run, slot: int) -> GeneratedImage:
        cached = await self._lookup(run, slot)
        if cached is not None:
            return cached
        started = self._clock()
        try:
            async with asyncio.timeout(max(0.0, run.deadline - started)):
                encoded_images, encoded_mask = await self._encoded_inputs(run)
                body = build_request(run.request, slot=slot, encoded_images=encoded_images, encoded_mask=encoded_mask)
                self._check_size(body)
                answer = await self._attempts.run(
                    run.request,
                    body,
                    account=run.account,
                    deadline=run.deadline,
                    operation=run.operation,
                    record=run.record,
                )
                image = await finish(run.request, slot, answer, created=self._wall_clock())
        except TimeoutError:
            raise out_of_time() from None
        finally:
            run.upstream_seconds = max(run.upstream_seconds, self._clock() - started)
        with run.operation.step("cache.store"):
            run.stored |= await self._cache.store(run.request, image)
        return image

    async def _lookup(self, run: _Run, slot: int) -> GeneratedImage | None:
        if not self._cache.enabled:
            return None
        started = self._clock()
        with run.operation.step("cache.lookup"):
            image = await self._cache.lookup(run.request, slot)
        run.cache_seconds = max(run.cache_seconds, self._clock() - started)
        return image

    async def _encoded_inputs(self, run: _Run) -> tuple[Pieces, Piece | None]:
        """Return the input pictures as base64, encoded once for all slots and only when a slot needs them."""
        if not run.request.images:
            return (), None
        if run.inputs is None:
            run.inputs = asyncio.create_task(to_thread.run_sync(_encode_inputs, run.request))
        return await asyncio.shield(run.inputs)

    def _check_size(self, body: Pieces) -> None:
        size = size_of(body)
        if size > self._max_request_bytes:
            raise PayloadTooLargeError(
                f"The request to Gemini would be {size:,} bytes; the limit is {self._max_request_bytes:,}. "
                "Send fewer or smaller images.",
                param="image",
            )

    def _result(self, run: _Run, images: list[GeneratedImage], started: float) -> ImageResult:
        request = run.request
        return ImageResult(
            request=request,
            images=tuple(images),
            failures=tuple(run.failures),
            cache_status=self._cache_status(request, images),
            cache_key=self._cache.key(request, 0) if self._cache.enabled else None,
            cache_ttl_seconds=self._cache.ttl_seconds(request) if run.stored else None,
            retries=run.record.retry_count,
            timings=Timings(cache=run.cache_seconds, upstream=run.upstream_seconds, total=self._clock() - started),
            created=int(min(image.created for image in images)),
        )

    def _cache_status(self, request: ImageRequest, images: list[GeneratedImage]) -> CacheStatus:
        if not self._cache.enabled:
            return CacheStatus.OFF
        if request.cache_control.no_cache:
            return CacheStatus.BYPASS
        hits = sum(image.age_seconds is not None for image in images)
        if hits == 0:
            return CacheStatus.MISS
        return CacheStatus.HIT if hits == request.n else CacheStatus.PARTIAL


def _encode_inputs(request: ImageRequest) -> tuple[Pieces, Piece | None]:
    images = tuple(encode_base64(image.data) for image in request.images)
    if request.mask is None:
        return images, None
    # A picture that cannot be composited must fail before Gemini bills the edit of it.
    check_original(request.images[0], output_format="webp" if request.output_format == "webp" else "png")
    return images, encode_base64(mask_picture(request.mask))
