"""One request on its way: what its slots share, and its input pictures made ready once for all of them."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field
from typing import Literal

from anyio import to_thread

from sfumato.engine.idempotency import Repetition
from sfumato.engine.presence import Presence
from sfumato.images.request import ImageRequest, SlotFailure
from sfumato.pictures.compose import MaskedEdit
from sfumato.pictures.threads import run_pixel_work
from sfumato.telemetry.observer import Operation, OperationRecord
from sfumato.upstream.accounts import Account
from sfumato.wire.payload import Piece, Pieces, encode_base64


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
        caller: Whose request it is.
        account: The caller's own account, None for the pool's.
        deadline: When to stop, in monotonic seconds.
        presence: Whether the client is still there.
        repetition: What its ``Idempotency-Key`` stands for, None without one.
        promised: Whether any picture is being stored.
    """

    request: ImageRequest
    operation: Operation
    record: OperationRecord
    caller: str
    account: Account | None
    deadline: float
    presence: Presence
    repetition: Repetition | None = None
    queue_seconds: float = 0.0
    cache_seconds: float = 0.0
    upstream_seconds: float = 0.0
    promised: bool = False
    inputs: asyncio.Task[Inputs] | None = None
    failures: list[SlotFailure] = field(default_factory=list)
    adopted: set[int] = field(default_factory=set)


async def prepared(run: Run) -> Inputs:
    """Return the input pictures, prepared once for all slots and only when a slot needs them."""
    if not run.request.images:
        return Inputs()
    if run.inputs is None:
        run.inputs = asyncio.create_task(_prepare(run.request))
        # Read here, should every slot be gone by then.
        run.inputs.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait([run.inputs])
    return run.inputs.result()


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
