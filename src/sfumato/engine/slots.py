"""The n pictures of one request: each from the cache, from a flight, or from upstream, and each with its own fate."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sfumato.cache.image_cache import ImageCache
from sfumato.engine.attempts import out_of_time
from sfumato.engine.flights import Flight, Flights, Landing, OnLate, shared
from sfumato.engine.idempotency import Repetition
from sfumato.engine.keepsakes import Keepsakes
from sfumato.engine.runs import Run
from sfumato.engine.studio import Studio
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import (
    DeadlineError,
    ImageError,
    InternalError,
    OverloadedError,
    SafetyBlockedError,
    UserError,
    outranks,
)
from sfumato.images.request import GeneratedImage, ImageRequest, SlotFailure
from sfumato.telemetry.observer import Step
from sfumato.upstream.retry import is_of_account

_log = logging.getLogger("sfumato")
# Of the time to the deadline, for a picture that is made elsewhere.
_PATIENCE = 0.5
# Clocks of hosts agree about as well.
_SLACK_SECONDS = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Fill the slots of requests.

    Attributes:
        cache: Looks up and stores pictures.
        flights: Lets one of many identical misses call upstream.
        studio: Makes pictures.
        keepsakes: Holds pictures that the cache does not, for callers who come again.
        work: Keeps requests, whose clients may leave.
        stores: Keeps the storing of pictures, which goes on after their answers.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
    """

    cache: ImageCache
    flights: Flights
    studio: Studio
    keepsakes: Keepsakes
    work: Supervisor
    stores: Supervisor
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
        if run.presence.left and run.repetition is None:
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
        image: GeneratedImage | None = None
        with run.presence.waiting():
            try:
                async with asyncio.timeout(max(0.0, run.deadline - self.clock())):
                    found = await self._look_up(run, slot)
                    image = found or await self._claim(run, slot) or await self._fly(run, slot)
                    return image
            except TimeoutError:
                raise out_of_time(attempts=run.record.retry_count + 1) from None
            finally:
                # Once, and only now: a first look that misses may end in a hit, and a counter cannot take a miss back.
                if self.cache.asks(run.request):
                    self.cache.vitals.note_lookup(hit=image is not None and image.age_seconds is not None)

    async def _fly(self, run: Run, slot: int) -> GeneratedImage:
        started = self.clock()
        try:
            if run.repetition is not None:
                return await self.flights.fly(self._repeatable(run, slot, run.repetition))
            if self._is_shareable(run.request):
                return await self.flights.fly(self._flight(run, slot))
            made = await self._make(run, slot, functools.partial(self._adopt_late, run, slot))
            self.stores.start(self._keep(run, made))
            return made
        finally:
            run.upstream_seconds = max(run.upstream_seconds, self.clock() - started)

    async def _claim(self, run: Run, slot: int) -> GeneratedImage | None:
        """Return a picture that this caller asked for and left, finished or when it is."""
        if run.repetition is not None:
            return None
        key = self._left_key(run.request, slot, caller=run.caller)
        claimed = self.keepsakes.claim(key)
        if claimed is None:
            return None
        if isinstance(claimed, GeneratedImage):
            if self._is_shareable(run.request) and run.request.cache_control.max_age_seconds is None:
                # Its caller may leave again. The cache did not take it before: it may now, or it is kept on.
                self.stores.start(self._keep(run, claimed))
            return shared(claimed, slot)
        run.presence.render(slot)
        try:
            await asyncio.wait([claimed])
        except asyncio.CancelledError:
            self.keepsakes.adopt(key, claimed)
            raise
        run.presence.pause()
        made = None if claimed.cancelled() or claimed.exception() else claimed.result()
        if isinstance(made, GeneratedImage):
            return shared(made, slot)
        if run.presence.left:
            # For a client that left nothing new is begun.
            raise asyncio.CancelledError
        return None

    def _adopt(self, run: Run, slot: int, task: asyncio.Task[object]) -> None:
        # Whatever the cache will have is found there; a flight is joined until then.
        if run.repetition is None and not self._is_shareable(run.request):
            run.adopted.add(slot)
            self.keepsakes.adopt(self._left_key(run.request, slot, caller=run.caller), task)

    def _is_shareable(self, request: ImageRequest) -> bool:
        """Tell whether others may have this picture: not where nothing is kept, or where a fresh one is wanted."""
        control = request.cache_control
        fresh = control.no_cache or (control.max_age_seconds is not None and control.max_age_seconds <= 0)
        return not fresh and self.cache.ttl_seconds(request) is not None

    def _left_key(self, request: ImageRequest, slot: int, *, caller: str) -> str:
        return f"left:{caller}:{self.cache.key(request, slot)}"

    @staticmethod
    def _again_key(repetition: Repetition, slot: int) -> str:
        return f"again:{repetition.scope}:{slot}"

    def _flight(self, run: Run, slot: int) -> Flight:
        """Return the flight of everybody who wants this picture."""
        now = self.clock()
        return Flight(
            key=self.cache.key(run.request, slot),
            slot=slot,
            account=run.account,
            patient_until=now + (run.deadline - now) * _PATIENCE,
            find=lambda: self._find(run, slot),
            make=lambda on_late: self._make(run, slot, on_late),
            keep=lambda made: self._keep(run, made),
            takes=_is_of_request,
            # A deadline is the request's own, and so is its queueing. For a client that left nothing is tried again.
            is_private=lambda error: (
                run.presence.left or error.short_of_time or isinstance(error, DeadlineError | OverloadedError)
            ),
        )

    def _repeatable(self, run: Run, slot: int, repetition: Repetition) -> Flight:
        """Return the flight of all that come under one key, however each of them would have the cache used.

        It is made by everybody's flight where its leader may share the picture.
        """
        flight = self._flight(run, slot)
        shareable, landings = self._is_shareable(run.request), list[Landing]()

        async def make(on_late: OnLate) -> GeneratedImage:
            def note(late: OnLate, finishing: asyncio.Task[GeneratedImage]) -> None:
                late(finishing)
                on_late(finishing)

            if not shareable:
                return await self._make(run, slot, on_late)
            everybodys = dataclasses.replace(
                flight, make=lambda late: self._make(run, slot, functools.partial(note, late))
            )
            return await self.flights.fly(everybodys, on_landing=landings.append)

        async def keep(made: GeneratedImage) -> bool:
            if shareable:
                # Whoever made it stores it: until then those who come under the key are given it here.
                await asyncio.wait(landings[-1:])
                found = landings[-1].result()
            else:
                found = await self._keep(run, made)
            ttl = self.cache.ttl_seconds(run.request)
            if not (found and ttl is not None and ttl >= repetition.seconds):
                self.keepsakes.keep(self._again_key(repetition, slot), made, seconds=repetition.seconds)
            return True

        return dataclasses.replace(flight, key=self._again_key(repetition, slot), make=make, keep=keep)

    async def _find(self, run: Run, slot: int) -> GeneratedImage | None:
        """Return what is there by now: under the request's key, or in the cache."""
        request, control, repetition = run.request, run.request.cache_control, run.repetition
        kept = self.keepsakes.find(self._again_key(repetition, slot)) if repetition else None
        if kept is not None:
            return shared(kept, slot)
        if repetition is not None and (control.no_cache or control.max_age_seconds is not None):
            # What was made since the key was first seen is fresh enough for all that come under it.
            since = self.wall_clock() - repetition.begun + _SLACK_SECONDS
            age = since if control.no_cache else max(since, control.max_age_seconds or 0.0)
            control = dataclasses.replace(control, no_cache=False, max_age_seconds=age)
            request = dataclasses.replace(request, cache_control=control)
        return await self.cache.lookup(request, slot, counted=False)

    async def _make(self, run: Run, slot: int, on_late: OnLate) -> GeneratedImage:
        image = await self.studio.make(run, slot, on_late=on_late)
        run.promised |= self.cache.ttl_seconds(run.request) is not None
        return image

    def _adopt_late(self, run: Run, slot: int, finishing: asyncio.Task[GeneratedImage]) -> None:
        """Keep a picture whose request has ended before it was ready."""
        finishing.add_done_callback(functools.partial(self._keep_late, run))
        self.keepsakes.adopt(self._left_key(run.request, slot, caller=run.caller), finishing)

    def _keep_late(self, run: Run, finished: asyncio.Task[GeneratedImage]) -> None:
        if not finished.cancelled() and finished.exception() is None:
            self.stores.start(self._keep(run, finished.result()))

    async def _keep(self, run: Run, image: GeneratedImage) -> bool:
        """Store a picture; tell whether the cache gives it to whoever asks as this request did."""
        step = Step(name="cache.store", slot=image.slot)
        with run.operation.step(step):
            stored = await self.cache.store(run.request, image)
            step.outcome = "stored" if stored else "kept_out"
        shareable = self._is_shareable(run.request)
        if run.repetition is None and not stored and shareable:
            # The cache should have had it; its caller at least finds it.
            self.keepsakes.keep(self._left_key(run.request, image.slot, caller=run.caller), image)
        # Where every request has a fresh one made, the next one takes this one's place in the cache.
        return stored and shareable

    async def _look_up(self, run: Run, slot: int) -> GeneratedImage | None:
        if not self.cache.asks(run.request):
            return None
        started = self.clock()
        step = Step(name="cache.lookup", slot=slot)
        with run.operation.step(step):
            image = await self.cache.lookup(run.request, slot, counted=False)
            step.outcome = "miss" if image is None else "hit"
        run.cache_seconds = max(run.cache_seconds, self.clock() - started)
        return image


def _is_of_request(error: ImageError) -> bool:
    """Tell whether an error is the prompt's, the pictures' or the parameters': the same with every account."""
    return isinstance(error, SafetyBlockedError | UserError) and not is_of_account(error)


def _explained(error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    # The pictures beside it are paid for: a defect in one slot must not lose them.
    _log.error("A picture failed unexpectedly", exc_info=error)
    return InternalError()
