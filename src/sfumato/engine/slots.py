"""The n pictures of one request: each from the cache, from a flight, or from upstream, and each with its own fate."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sfumato.cache.image_cache import ImageCache
from sfumato.engine.attempts import Attempts, BodyFor, Work, out_of_time
from sfumato.engine.bulkhead import Bulkhead
from sfumato.engine.finishing import finish
from sfumato.engine.flights import Flight, Flights, shared
from sfumato.engine.keepsakes import Keepsakes
from sfumato.engine.runs import Inputs, Run, prepare
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import (
    DeadlineError,
    ImageError,
    InternalError,
    OverloadedError,
    PayloadTooLargeError,
    outranks,
)
from sfumato.images.models import Prices
from sfumato.images.pricing import price_usd
from sfumato.images.request import GeneratedImage, ImageRequest, SlotFailure
from sfumato.telemetry.observer import Charge, Step
from sfumato.upstream.accounts import Backend
from sfumato.wire.gemini import build_request, makes_format
from sfumato.wire.payload import Pieces, size_of

_log = logging.getLogger("sfumato")
# Clocks of hosts agree about as well.
_SLACK_SECONDS = 0.001
UNEXPECTED = "Something failed here that should not. Tell the operator."


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Fill the slots of requests.

    Attributes:
        cache: Looks up and stores pictures.
        flights: Lets one of many identical misses call upstream.
        bulkhead: Bounds upstream work.
        attempts: Calls upstream.
        keepsakes: Holds pictures that the cache does not, for callers who come again.
        work: Keeps requests, whose clients may leave.
        stores: Keeps the storing of pictures, which goes on after their answers.
        max_request_bytes: Limit of one upstream body.
        own_prices: The operator's, by model.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
    """

    cache: ImageCache
    flights: Flights
    bulkhead: Bulkhead
    attempts: Attempts
    keepsakes: Keepsakes
    work: Supervisor
    stores: Supervisor
    max_request_bytes: int
    own_prices: Mapping[str, Prices] = field(default_factory=dict)
    clock: Callable[[], float]
    wall_clock: Callable[[], float]

    async def fill(self, run: Run) -> list[GeneratedImage]:
        """Return the pictures that came; the failures of the others are left in *run*.

        When the client leaves meanwhile, those pictures come that upstream was rendering by then.

        Raises:
            ImageError: None came; of several errors the one that ranks highest (blocked > quota > rest).
        """
        slots = range(run.request.n)
        run.presence.on_left = functools.partial(self._adopt, run)
        try:
            outcomes = await asyncio.gather(*(self._fill_slot(run, slot) for slot in slots), return_exceptions=True)
        finally:
            if run.inputs is not None:
                run.inputs.cancel()
        images: list[GeneratedImage] = []
        for slot, outcome in zip(slots, outcomes, strict=True):
            if isinstance(outcome, GeneratedImage):
                images.append(outcome)
            elif isinstance(outcome, Exception):
                run.failures.append(SlotFailure(slot, _explained(outcome)))
            elif not run.presence.left:
                raise outcome
        if run.presence.left:
            finished = [image for image in images if image.slot not in run.adopted]
            self.keep_undelivered(run.request, finished, caller=run.caller)
        if images:
            return images
        if not run.failures:
            raise asyncio.CancelledError
        worst = run.failures[0].error
        for failure in run.failures[1:]:
            worst = failure.error if outranks(failure.error, worst) else worst
        raise worst

    def keep_undelivered(self, request: ImageRequest, images: Iterable[GeneratedImage], *, caller: str) -> None:
        """Hold what did not reach its caller, where the cache will not give it out when the request comes again."""
        if not self._is_shareable(request):
            for image in images:
                self.keepsakes.keep(self._left_key(request, image.slot, caller=caller), image)

    async def _fill_slot(self, run: Run, slot: int) -> GeneratedImage:
        with run.presence.waiting():
            found = await self._look_up(run, slot)
            if found is not None:
                return found
            started = self.clock()
            try:
                async with asyncio.timeout(max(0.0, run.deadline - started)):
                    return await self._claim(run, slot) or await self._fly(run, slot)
            except TimeoutError:
                raise out_of_time(attempts=run.record.retry_count + 1) from None
            finally:
                run.upstream_seconds = max(run.upstream_seconds, self.clock() - started)

    async def _fly(self, run: Run, slot: int) -> GeneratedImage:
        key = self._flight_key(run, slot)
        if key is not None:
            return await self.flights.fly(self._flight(run, slot, key))
        made = await self._make(run, slot)
        self.stores.start(self._keep(run, made))
        return made

    async def _claim(self, run: Run, slot: int) -> GeneratedImage | None:
        """Return a picture that this caller asked for and left, finished or when it is."""
        key = self._left_key(run.request, slot, caller=run.caller)
        claimed = self.keepsakes.claim(key)
        if not isinstance(claimed, asyncio.Task):
            return None if claimed is None else shared(claimed, slot)
        run.presence.render(slot)
        try:
            await asyncio.wait([claimed])
        except asyncio.CancelledError:
            self.keepsakes.adopt(key, claimed)
            raise
        run.presence.pause()
        made = None if claimed.cancelled() or claimed.exception() else claimed.result()
        return shared(made, slot) if isinstance(made, GeneratedImage) else None

    def _adopt(self, run: Run, slot: int, task: asyncio.Task[object]) -> None:
        # Whatever the cache will have is found there; a flight is joined until then.
        if self._flight_key(run, slot) is None:
            run.adopted.add(slot)
            self.keepsakes.adopt(self._left_key(run.request, slot, caller=run.caller), task)

    def _is_shareable(self, request: ImageRequest) -> bool:
        """Tell whether others may have this picture: not where nothing is kept, or where a fresh one is wanted."""
        control = request.cache_control
        return self.cache.enabled and not control.no_cache and not control.no_store

    def _left_key(self, request: ImageRequest, slot: int, *, caller: str) -> str:
        return f"left:{caller}:{self.cache.key(request, slot)}"

    def _flight_key(self, run: Run, slot: int) -> str | None:
        if self._is_shareable(run.request):
            return self.cache.key(run.request, slot)
        return f"again:{run.repetition.scope}:{slot}" if run.repetition else None

    def _flight(self, run: Run, slot: int, key: str) -> Flight:
        again = run.repetition is not None and not self._is_shareable(run.request)
        return Flight(
            key=key,
            slot=slot,
            deadline=run.deadline,
            find=lambda: (
                self._find_again(run, slot, key) if again else self.cache.lookup(run.request, slot, again=True)
            ),
            make=lambda: self._make(run, slot),
            keep=lambda made: self._keep(run, made, key=key if again else None),
            joined=_nothing if again else self.cache.count_shared,
            # A deadline is the request's own, and so is whatever befell an account that it brought, or its queueing.
            is_private=lambda error: run.account is not None or isinstance(error, DeadlineError | OverloadedError),
        )

    async def _look_again(self, run: Run, slot: int) -> GeneratedImage | None:
        return await self.cache.lookup(run.request, slot, again=True)

    async def _find_again(self, run: Run, slot: int, key: str) -> GeneratedImage | None:
        """Return the picture that was made for this request's key before, from memory or from the cache."""
        kept = self.keepsakes.find(key)
        if kept is not None:
            return shared(kept, slot)
        request = run.request
        if run.repetition is None or request.cache_control.no_store:
            return None
        # Only what was made since the key was first seen: no-cache wanted a fresh one.
        age = self.wall_clock() - run.repetition.begun + _SLACK_SECONDS
        control = dataclasses.replace(request.cache_control, no_cache=False, max_age_seconds=age)
        return await self.cache.lookup(dataclasses.replace(request, cache_control=control), slot, again=True)

    async def _make(self, run: Run, slot: int) -> GeneratedImage:
        inputs = await self._inputs(run)

        body_for = functools.cache(functools.partial(self._body, run.request, slot, inputs))
        # Too much is refused before a place is waited for.
        body_for(run.account.backend if run.account else "gemini")
        async with self.bulkhead.place(run.request.tenant) as waited:
            run.queue_seconds = max(run.queue_seconds, waited)
            paid = await self.attempts.run(self._work(run, slot, body_for))
        price = price_usd(run.request.variant.family, run.request.tier, paid.answer.usage, own_prices=self.own_prices)
        run.record.charges.append(Charge(paid.account.label, price))
        image = await finish(
            run.request,
            slot,
            paid.answer,
            price_usd=price,
            created=self.wall_clock(),
            edit=inputs.edit,
            made_as_asked=makes_format(run.request, paid.account.backend),
        )
        run.promised |= self.cache.ttl_seconds(run.request) is not None
        return image

    def _work(self, run: Run, slot: int, body_for: BodyFor) -> Work:
        return Work(
            request=run.request,
            slot=slot,
            body_for=body_for,
            account=run.account,
            deadline=run.deadline,
            operation=run.operation,
            record=run.record,
            presence=run.presence,
        )

    def _body(self, request: ImageRequest, slot: int, inputs: Inputs, backend: Backend) -> Pieces:
        body = build_request(
            request, slot=slot, encoded_images=inputs.images, encoded_mask=inputs.mask, backend=backend
        )
        size = size_of(body)
        if size > self.max_request_bytes:
            raise PayloadTooLargeError(
                f"The request to Gemini would be {size:,} bytes; the limit is {self.max_request_bytes:,}. "
                "Send fewer or smaller images.",
                param="image",
            )
        return body

    async def _keep(self, run: Run, image: GeneratedImage, *, key: str | None = None) -> None:
        step = Step(name="cache.store", slot=image.slot)
        with run.operation.step(step):
            stored = await self.cache.store(run.request, image)
            step.outcome = "stored" if stored else "kept_out"
        if stored:
            return
        if key is not None and run.repetition is not None:
            self.keepsakes.keep(key, image, seconds=run.repetition.seconds)
        elif run.presence.left and self._is_shareable(run.request):
            # The cache should have had it.
            self.keepsakes.keep(self._left_key(run.request, image.slot, caller=run.caller), image)

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
            run.inputs = asyncio.create_task(prepare(run.request))
        return await asyncio.shield(run.inputs)


def _nothing() -> None:
    pass


def _explained(error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    # The pictures beside it are paid for: a defect in one slot must not lose them.
    _log.error("A picture failed unexpectedly", exc_info=error)
    return InternalError(UNEXPECTED)
