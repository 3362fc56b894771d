from __future__ import annotations

import dataclasses
import logging

import pytest

from sfumato.engine.idempotency import Idempotency
from sfumato.engine.notes import LocalNotes
from sfumato.errors import InvalidParameterError
from sfumato.images.request import CacheControl, ImageRequest, Operation
from sfumato.images.resolution import ImageWish, RequestPolicy, resolve
from sfumato.images.variants import parse_variant

pytestmark = pytest.mark.anyio


def wanted(prompt: str = "x", n: int = 1) -> ImageRequest:
    variant = parse_variant("gemini-3-pro-image")
    assert variant
    return resolve(ImageWish(operation=Operation.GENERATION, variant=variant, prompt=prompt, n=n), RequestPolicy())


class Medium:
    """Notes that can fail."""

    def __init__(self) -> None:
        self.notes = LocalNotes(clock=lambda: 0.0)
        self.works = True

    async def write(self, key: str, text: str, *, seconds: float) -> str:
        if not self.works:
            raise OSError("the medium's own words")
        return await self.notes.write(key, text, seconds=seconds)

    async def aclose(self) -> None:
        await self.notes.aclose()


class Desk:
    def __init__(self, medium: Medium | None = None) -> None:
        self.now = 100.0
        self.medium = medium or Medium()
        self.idempotency = Idempotency(
            self.medium, fallback=LocalNotes(clock=lambda: 0.0), ttl_seconds=60, clock=lambda: self.now
        )


async def test_a_repetition_knows_when_the_first_came() -> None:
    desk = Desk()
    first = await desk.idempotency.begin("key", wanted(), caller="me")
    desk.now = 130.0
    again = await desk.idempotency.begin("key", wanted(), caller="me")
    assert first == again
    assert (again.begun, again.seconds) == (100.0, 60)


async def test_another_process_knows_too() -> None:
    desk = Desk()
    first = await desk.idempotency.begin("key", wanted(), caller="me")
    assert await Desk(desk.medium).idempotency.begin("key", wanted(), caller="me") == first


async def test_a_key_is_its_callers_own() -> None:
    desk = Desk()
    mine = await desk.idempotency.begin("key", wanted("mine"), caller="me")
    yours = await desk.idempotency.begin("key", wanted("yours"), caller="you")
    assert mine.scope != yours.scope
    assert "key" not in mine.scope


@pytest.mark.parametrize("other", [wanted("y"), wanted(n=2)])
async def test_a_key_for_another_request_is_refused(other: ImageRequest) -> None:
    desk = Desk()
    await desk.idempotency.begin("key", wanted(), caller="me")
    with pytest.raises(InvalidParameterError, match="another request"):
        await desk.idempotency.begin("key", other, caller="me")


async def test_how_the_answer_is_wanted_makes_no_other_request() -> None:
    desk = Desk()
    await desk.idempotency.begin("key", wanted(), caller="me")
    control = CacheControl(no_cache=True)
    spelled = dataclasses.replace(wanted(), response_format="url", cache_control=control)
    await desk.idempotency.begin("key", spelled, caller="me")


async def test_a_medium_that_fails_is_told_once_and_does_not_stop_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sfumato")
    desk = Desk()
    desk.medium.works = False
    for _ in range(2):
        await desk.idempotency.begin("key", wanted(), caller="me")
    with pytest.raises(InvalidParameterError):
        await desk.idempotency.begin("key", wanted("other"), caller="me")
    desk.medium.works = True
    await desk.idempotency.begin("key", wanted(), caller="me")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "own words" not in caplog.text
