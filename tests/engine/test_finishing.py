"""What masked edits share, what they are refused for before Gemini bills them, and where their pixels are worked on."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sfumato.engine.presence import Presence
from sfumato.engine.runs import Run, prepared
from sfumato.errors import InvalidImageError, InvalidParameterError
from sfumato.images.request import InputImage, Operation
from sfumato.images.resolution import ImageWish, InputImages, RequestPolicy, resolve
from sfumato.images.variants import parse_variant
from sfumato.pictures.inspect import ImageLimits, inspect_image
from sfumato.pictures.threads import pixel_limiter
from sfumato.telemetry.observer import Call, OperationRecord
from sfumato.wire.payload import raw_bytes
from tests.conftest import Emulator
from tests.support import samples
from tests.support.clients import Recording, bench

pytestmark = pytest.mark.anyio

ORIGINAL = samples.encoded(samples.noise(64, 48))
MASK = samples.mask(64, 48, (8, 8, 40, 40))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


EDIT: dict[str, Any] = {"image": base64_of(ORIGINAL), "mask": base64_of(MASK)}


def inspected(data: bytes) -> InputImage:
    return inspect_image(data, param="image", limits=ImageLimits(max_pixels=10**6, max_bytes=10**6))


def masked_run(n: int) -> Run:
    variant = parse_variant("gemini-3-pro-image")
    assert variant
    wish = ImageWish(operation=Operation.EDIT, variant=variant, prompt="x", n=n)
    request = resolve(wish, RequestPolicy(), InputImages((inspected(ORIGINAL),), inspected(MASK)))
    record = OperationRecord(call=Call(request_id="req_test"), operation="edit", model=None, tenant=None)
    return Run(request, Recording(), record, caller="tests", account=None, deadline=2000.0, presence=Presence())


@asynccontextmanager
async def no_place_free() -> AsyncIterator[None]:
    """Hold every place for work on pixels."""
    limiter = pixel_limiter()
    places = [object() for _ in range(int(limiter.total_tokens))]
    for place in places:
        limiter.acquire_on_behalf_of_nowait(place)
    try:
        yield
    finally:
        for place in places:
            limiter.release_on_behalf_of(place)


async def until_waiting(tasks: int) -> None:
    async with asyncio.timeout(20):
        while pixel_limiter().statistics().tasks_waiting != tasks:  # noqa: ASYNC110  # the limiter has no event for it
            await asyncio.sleep(0)


def undecodable_png() -> bytes:
    """A PNG whose structure and checksums are right and whose pixels are not."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x07" * 400)[:6] + b"\xff" * 4
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


async def test_a_damaged_original_is_refused_before_it_is_billed(emulator: Emulator) -> None:
    """A mask needs the original's pixels; a file that cannot be decoded must not reach Gemini."""
    assert inspected(undecodable_png()).width == 64, "intake has no objection"
    async with bench(emulator.url) as it:
        with pytest.raises(InvalidImageError, match="'image' is damaged and cannot be decoded") as refused:
            await it.make("x", **EDIT | {"image": base64_of(undecodable_png())})
    assert refused.value.param == "image"
    assert emulator.calls() == []


@pytest.mark.parametrize("alpha", [255, 128])
async def test_a_mask_that_lets_nothing_be_edited_is_refused_before_it_is_billed(
    emulator: Emulator, alpha: int
) -> None:
    mask = samples.noise(64, 48)
    mask.putalpha(alpha)
    async with bench(emulator.url) as it:
        with pytest.raises(InvalidImageError, match="no fully transparent pixel") as refused:
            await it.make("x", **EDIT | {"mask": base64_of(samples.encoded(mask))})
    assert (refused.value.param, refused.value.status) == ("mask", 400)
    assert emulator.calls() == []


async def test_a_compression_with_a_mask_is_refused(emulator: Emulator) -> None:
    """The answer is lossless, so that the kept pixels are exact: the wish cannot be met."""
    async with bench(emulator.url) as it:
        with pytest.raises(InvalidParameterError, match="mask") as refused:
            await it.make("x", **EDIT, output_format="webp", output_compression=50)
        lossless = await it.make("x", **EDIT, output_format="webp", output_compression=100)
    assert refused.value.param == "output_compression"
    assert lossless.images[0].picture.format == "webp"
    assert len(emulator.calls()) == 1


async def test_inputs_are_prepared_once_for_all_slots() -> None:
    run = masked_run(n=3)
    inputs = await asyncio.gather(*(prepared(run) for _ in range(3)))
    assert inputs[0].edit is not None
    assert all(one is inputs[0] for one in inputs)


async def test_a_cancelled_slot_leaves_the_preparation_to_the_others() -> None:
    run = masked_run(n=2)
    async with no_place_free():
        first, second = (asyncio.create_task(prepared(run)) for _ in range(2))
        await until_waiting(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert (await second).mask is not None


async def test_a_cancelled_request_leaves_no_preparation_behind(emulator: Emulator) -> None:
    async with bench(emulator.url) as it, no_place_free():
        request = asyncio.create_task(it.make("x", n=3, **EDIT))
        await until_waiting(1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await until_waiting(0)
    assert emulator.calls() == []


async def test_what_needs_no_pixels_does_not_wait_for_those_that_do(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        async with no_place_free():
            waiting = asyncio.create_task(it.make("format", output_format="webp"))
            await until_waiting(1)
            plain = await it.make("x", image=base64_of(ORIGINAL))
            hit = await it.make("x", image=base64_of(ORIGINAL))
            assert not waiting.done()
        transcoded = await waiting
    assert (len(plain.images), hit.images[0].age_seconds) == (1, 0.0)
    assert transcoded.images[0].picture.format == "webp"


async def test_n_masked_edits_are_composited_each_with_its_own_result(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        result = await it.make("x", n=4, **EDIT)
    pictures = [samples.opened(raw_bytes(image.picture)) for image in result.images]
    outside = {picture.crop((0, 0, 64, 8)).tobytes() for picture in pictures}
    assert outside == {samples.noise(64, 48).crop((0, 0, 64, 8)).tobytes()}
    assert len({picture.crop((8, 8, 40, 40)).tobytes() for picture in pictures}) == 4
