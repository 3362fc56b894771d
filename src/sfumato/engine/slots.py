"""The n pictures of one request: each from the cache, from a flight, or from upstream, and each with its own fate."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from anyio import to_thread

from sfumato.cache.image_cache import ImageCache
from sfumato.engine.attempts import Attempts, out_of_time
from sfumato.engine.finishing import finish
from sfumato.engine.flights import Flight, Flights
from sfumato.errors import DeadlineError, ImageError, InternalError, PayloadTooLargeError, outranks
from sfumato.images.request import GeneratedImage, ImageRequest, SlotFailure
from sfumato.pictures.compose import MaskedEdit
from sfumato.pictures.threads import run_pixel_work
from sfumato.telemetry.observer import Operation, OperationRecord, Step
from sfumato.upstream.accounts import Account
from sfumato.wire.gemini import build_request
from sfumato.wire.payload import Piece, Pieces, encode_base64, size_of

_log = logging.getLogger("sfumato")
UNEXPECTED = "Something failed here that should not. Tell the operator."


@dataclass(frozen=True, slots=True)
class Inputs:
    """A request's input pictures, ready to be sent, and what its answers are composited with."""

    images: Pieces = ()
    mask: Piece | None = None
    edit: MaskedEdit | None = None


@dataclass(slots=True)
class Run:
    """What the slots of one request share, and what they leave behind.

    Attributes:
        account: The caller's own account, None for the pool's.
        deadline: When to stop, in monotonic seconds.
        stored: Whether any picture was stored.
    """

    request: ImageRequest
    operation: Operation
    record: OperationRecord
    account: Account | None
    deadline: float
    cache_seconds: float = 0.0
    upstream_seconds: float = 0.0
    stored: bool = False
    inputs: asyncio.Task[Inputs] | None = None
    failures: list[SlotFailure] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Fill the slots of requests.

    Attributes:
        cache: Looks up and stores pictures.
        flights: Lets one of many identical misses call upstream.
        attempts: Calls upstream.
        max_request_bytes: Limit of one upstream body.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
    """

    cache: ImageCache
    flights: Flights
    attempts: Attempts
    max_request_bytes: int
    clock: Callable[[], float]
    wall_clock: Callable[[], float]

    async def fill(self, run: Run) -> list[GeneratedImage]:
        """Return the pictures that came; the failures of the others are left in *run*.

        Raises:
            ImageError: None came; of several errors the one that ranks highest (blocked > quota > rest).
        """
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
                run.failures.append(SlotFailure(slot, InternalError(UNEXPECTED)))
            else:
                raise outcome
        if not images:
            worst = run.failures[0].error
            for failure in run.failures[1:]:
                worst = failure.error if outranks(failure.error, worst) else worst
            raise worst
        return images

    async def _fill_slot(self, run: Run, slot: int) -> GeneratedImage:
        found = await self._look_up(run, slot)
        if found is not None:
            return found
        started = self.clock()
        try:
            async with asyncio.timeout(max(0.0, run.deadline - started)):
                if not self._is_shareable(run):
                    return await self._make(run, slot)
                return await self.flights.fly(self._flight(run, slot))
        except TimeoutError:
            raise out_of_time(attempts=run.record.retry_count + 1) from None
        finally:
            run.upstream_seconds = max(run.upstream_seconds, self.clock() - started)

    def _is_shareable(self, run: Run) -> bool:
        """Tell whether others may have this picture: not where nothing is kept, or where a fresh one is wanted."""
        control = run.request.cache_control
        return self.cache.enabled and not control.no_cache and not control.no_store

    def _flight(self, run: Run, slot: int) -> Flight:
        return Flight(
            key=self.cache.key(run.request, slot),
            slot=slot,
            deadline=run.deadline,
            find=lambda: self.cache.lookup(run.request, slot, again=True),
            make=lambda: self._make(run, slot),
            # A deadline is the request's own, and so is whatever befell an account that it brought.
            is_private=lambda error: run.account is not None or isinstance(error, DeadlineError),
        )

    async def _make(self, run: Run, slot: int) -> GeneratedImage:
        inputs = await self._inputs(run)
        body = build_request(run.request, slot=slot, encoded_images=inputs.images, encoded_mask=inputs.mask)
        self._check_size(body)
        answer = await self.attempts.run(
            run.request,
            body,
            slot=slot,
            account=run.account,
            deadline=run.deadline,
            operation=run.operation,
            record=run.record,
        )
        image = await finish(run.request, slot, answer, created=self.wall_clock(), edit=inputs.edit)
        step = Step(name="cache.store", slot=slot)
        with run.operation.step(step):
            stored = await self.cache.store(run.request, image)
            step.outcome = "stored" if stored else "kept_out"
        run.stored |= stored
        return image

    async def _look_up(self, run: Run, slot: int) -> GeneratedImage | None:
        if not self.cache.enabled:
            return None
        started = self.clock()
        step = Step(name="cache.lookup", slot=slot)
        with run.operation.step(step):
            image = await self.cache.lookup(run.request, slot)
            step.outcome = "miss" if image is None else "hit"
        run.cache_seconds = max(run.cache_seconds, self.clock() - started)
        return image

    async def _inputs(self, run: Run) -> Inputs:
        """Return the input pictures, prepared once for all slots and only when a slot needs them."""
        if not run.request.images:
            return Inputs()
        if run.inputs is None:
            run.inputs = asyncio.create_task(_prepare(run.request))
        return await asyncio.shield(run.inputs)

    def _check_size(self, body: Pieces) -> None:
        size = size_of(body)
        if size > self.max_request_bytes:
            raise PayloadTooLargeError(
                f"The request to Gemini would be {size:,} bytes; the limit is {self.max_request_bytes:,}. "
                "Send fewer or smaller images.",
                param="image",
            )


async def _prepare(request: ImageRequest) -> Inputs:
    edit = None
    if request.mask is not None:
        lossless: Literal["png", "webp"] = "webp" if request.output_format == "webp" else "png"
        build = functools.partial(MaskedEdit, request.images[0], request.mask, output_format=lossless)
        # A picture that cannot be composited must fail before Gemini bills the edit of it.
        edit = await run_pixel_work(build)
    return await to_thread.run_sync(_encode, request, edit)


def _encode(request: ImageRequest, edit: MaskedEdit | None) -> Inputs:
    images = tuple(encode_base64(image.data) for image in request.images)
    return Inputs(images, None if edit is None else encode_base64(edit.mask_picture), edit)
