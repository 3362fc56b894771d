"""A picture made: a place, the attempts upstream, and the finishing that no deadline ends because it is paid for."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sfumato.engine.attempts import Attempts, Paid, Work
from sfumato.engine.bulkhead import Bulkhead
from sfumato.engine.finishing import finish
from sfumato.engine.runs import Inputs, Run, prepared
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import PayloadTooLargeError
from sfumato.images.models import Prices
from sfumato.images.pricing import price_usd
from sfumato.images.request import GeneratedImage, ImageRequest
from sfumato.pictures.compose import MaskedEdit
from sfumato.telemetry.observer import Charge
from sfumato.upstream.accounts import Backend
from sfumato.wire.gemini import build_request, makes_format
from sfumato.wire.payload import Pieces, size_of

Making = asyncio.Task[GeneratedImage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Studio:
    """Make pictures.

    Attributes:
        bulkhead: Bounds upstream work.
        attempts: Calls upstream.
        work: Keeps the finishing of pictures.
        max_request_bytes: Limit of one upstream body.
        own_prices: The operator's, by model.
        wall_clock: Unix seconds.
    """

    bulkhead: Bulkhead
    attempts: Attempts
    work: Supervisor
    max_request_bytes: int
    own_prices: Mapping[str, Prices] = field(default_factory=dict)
    wall_clock: Callable[[], float]

    async def make(self, run: Run, slot: int, *, on_late: Callable[[Making], None]) -> GeneratedImage:
        """Return one picture of a request.

        Args:
            run: The request.
            slot: Which of the n pictures.
            on_late: Given what goes on when the request ends while its picture is being finished.

        Raises:
            ImageError: No picture came; at once where no account could serve, or too many wait.
        """
        inputs = await prepared(run)
        body_for = functools.cache(functools.partial(self._body, run.request, slot, inputs))
        # Too much is refused before a place is waited for, and so is what no account could serve.
        body_for(run.account.backend if run.account else "gemini")
        exhausted = None if run.account else self.attempts.accounts.exhausted(run.request.variant.family.name)
        if exhausted is not None:
            raise exhausted
        work = Work(
            request=run.request,
            slot=slot,
            body_for=body_for,
            account=run.account,
            deadline=run.deadline,
            operation=run.operation,
            record=run.record,
            presence=run.presence,
        )
        async with self.bulkhead.place(run.request.tenant) as waited:
            run.queue_seconds = max(run.queue_seconds, waited)
            paid = await self.attempts.run(work)
        # On a task of its own: the picture is paid for, so no deadline ends what is left to do.
        finishing = self.work.start(self._finish(run, slot, paid, inputs.edit))
        try:
            await asyncio.wait([finishing])
            return finishing.result()
        except asyncio.CancelledError:
            on_late(finishing)
            raise

    async def _finish(self, run: Run, slot: int, paid: Paid, edit: MaskedEdit | None) -> GeneratedImage:
        request = run.request
        price = price_usd(request.variant.family, request.tier, paid.answer.usage, own_prices=self.own_prices)
        run.record.charges.append(Charge(paid.account.label, price))
        return await finish(
            request,
            slot,
            paid.answer,
            price_usd=price,
            created=self.wall_clock(),
            edit=edit,
            made_as_asked=makes_format(request, paid.account.backend),
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
