from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import ImageError, InternalError, NoImageError, RateLimitedError
from sfumato.images.models import FAMILIES
from sfumato.images.request import (
    CacheStatus,
    GeneratedImage,
    ImageRequest,
    ImageResult,
    Operation,
    Picture,
    SlotFailure,
    Usage,
)
from sfumato.images.safety import Safety, Threshold
from sfumato.images.variants import Variant
from sfumato.telemetry.observer import (
    Call,
    NullObserver,
    Observer,
    ObserverGroup,
    OperationRecord,
    Step,
    begin,
    followed,
    private_hash,
)
from sfumato.telemetry.observer import Operation as Followed
from sfumato.telemetry.vitals import Vitals

CANARY = "canary-9f3"
REQUEST = ImageRequest(
    operation=Operation.EDIT,
    variant=Variant(FAMILIES[0]),
    prompt=f"prompt {CANARY}",
    effective_prompt=f"prompt {CANARY}\n\nStyle: {CANARY}",
    safety=Safety(Threshold.BLOCK_ONLY_HIGH),
    n=2,
    aspect_ratio="16:9",
    tier="4K",
    quality="hd",
    style=f"style {CANARY}",
    user=f"user {CANARY}",
    tenant="team",
)


class Clock:
    """Seconds that move by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """An observer that writes down what it is told, with the record as it stands then."""

    def __init__(self, name: str = "", events: list[str] | None = None) -> None:
        self.name = name
        self.events: list[str] = [] if events is None else events
        self.ended: list[OperationRecord] = []

    def begin(self, record: OperationRecord) -> _Recording:
        self.events.append(f"{self.name}begin")
        return _Recording(self, record)

    def watch(self, vitals: Vitals) -> None:
        self.events.append(f"{self.name}watch")


class _Recording:
    def __init__(self, recorder: Recorder, record: OperationRecord) -> None:
        self._recorder = recorder
        self._record = record

    def step(self, step: Step) -> AbstractContextManager[None]:
        return self._step(step.name)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._recorder.events.append(f"{self._recorder.name}enter {name}")
        try:
            yield
        finally:
            self._recorder.events.append(f"{self._recorder.name}leave {name}")

    def retry(self, error: ImageError, *, attempt: int, delay_seconds: float) -> None:
        self._recorder.events.append(f"{self._recorder.name}retry {error.code} {attempt} {delay_seconds}")

    def end(self) -> None:
        self._recorder.events.append(f"{self._recorder.name}end")
        self._recorder.ended.append(replace(self._record))


def record() -> OperationRecord:
    return OperationRecord(call=Call(request_id="req_1"))


def run(error: BaseException | None = None) -> OperationRecord:
    """Follow a block that takes two seconds and ends with *error*; return the record as its end was told."""
    clock, recorder, made = Clock(), Recorder(), record()

    def work() -> None:
        with followed(begin(recorder, made), made, clock=clock):
            clock.now += 2.0
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)) as caught:
            work()
        assert caught.value is error
    assert recorder.events == ["begin", "end"]
    (ended,) = recorder.ended
    assert ended == made
    assert ended.duration_seconds == 2.0
    return ended


def test_a_success() -> None:
    ended = run()
    assert (ended.error, ended.status_code, ended.retry_count) == (None, 200, 0)


def test_an_error_of_ours() -> None:
    error = RateLimitedError("m")
    error.attempts = 3
    ended = run(error)
    assert (ended.error, ended.status_code) == (error, 429)
    assert ended.retry_count == 0, "they may be another request's, which shares its error"


def test_an_unexpected_error_is_internal_and_its_text_is_not_kept() -> None:
    ended = run(ValueError(CANARY))
    assert isinstance(ended.error, InternalError)
    assert ended.status_code == 500
    assert CANARY not in repr(ended.error)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt()])
def test_a_client_that_left(error: BaseException) -> None:
    ended = run(error)
    assert (ended.error, ended.status_code) == (None, 499)


def test_retries_that_were_counted_are_not_lost() -> None:
    made = record()
    with pytest.raises(NoImageError), watched(NullObserver(), made):  # noqa: PT012  # two statements
        made.retry_count = 5
        raise NoImageError("m")
    assert made.retry_count == 5


def watched(observer: Observer, made: OperationRecord) -> AbstractContextManager[Followed]:
    return followed(begin(observer, made), made, clock=Clock())


def test_the_null_observer_looks_at_nothing() -> None:
    with watched(NullObserver(), record()) as operation, operation.step(Step(name="attempt")):
        operation.retry(NoImageError("m"), attempt=1, delay_seconds=0.0)


def test_a_group_tells_everyone_and_closes_in_the_opposite_order() -> None:
    events: list[str] = []
    group = ObserverGroup([Recorder("a ", events), Recorder("b ", events)])
    with watched(group, record()) as operation:
        with operation.step(Step(name="attempt")):
            events.append("work")
        operation.retry(NoImageError("m"), attempt=1, delay_seconds=0.5)
    assert events == [
        "a begin",
        "b begin",
        "a enter attempt",
        "b enter attempt",
        "work",
        "b leave attempt",
        "a leave attempt",
        "a retry IMG_NO_IMAGE 1 0.5",
        "b retry IMG_NO_IMAGE 1 0.5",
        "b end",
        "a end",
    ]


def test_a_group_closes_steps_that_fail() -> None:
    events: list[str] = []
    operation = ObserverGroup([Recorder("a ", events), Recorder("b ", events)]).begin(record())
    with pytest.raises(NoImageError), operation.step(Step(name="attempt")):
        raise NoImageError("m")
    assert events[-2:] == ["b leave attempt", "a leave attempt"]


def test_an_empty_group_is_nobody() -> None:
    with watched(ObserverGroup([]), record()) as operation, operation.step(Step(name="attempt")):
        operation.retry(NoImageError("m"), attempt=1, delay_seconds=0.0)


def test_what_was_asked_for_is_described_without_the_client_s_texts() -> None:
    made = record()
    made.describe_request(REQUEST, salt="salt")
    assert CANARY not in repr(made)
    assert (made.operation, made.model, made.tenant) == ("edit", "gemini-3-pro-image-4k-16x9", "team")
    assert (made.resolution, made.aspect_ratio, made.quality, made.style) == ("4K", "16:9", "hd", "custom")
    assert (made.n, made.safety_level) == (2, "LOW")
    assert made.prompt_hash == private_hash(REQUEST.prompt, salt="salt")
    assert made.user_hash == private_hash(REQUEST.user or "", salt="salt")


@pytest.mark.parametrize(("style", "told"), [(None, None), ("vivid", "vivid"), ("natural", "natural"), ("x", "custom")])
def test_only_our_own_styles_are_told_by_name(style: str | None, told: str | None) -> None:
    made = record()
    made.describe_request(replace(REQUEST, style=style, tier=None, user=None), salt=None)
    assert (made.style, made.resolution, made.user_hash) == (told, "1K", None)


def test_what_came_of_it_is_described() -> None:
    image = GeneratedImage(
        slot=0,
        picture=Picture(raw=b"", mime_type="image/png", width=1, height=1),
        usage=Usage(total_tokens=9),
        price_usd=0.25,
        created=0.0,
    )
    result = ImageResult(
        request=REQUEST,
        images=(image, replace(image, slot=2, age_seconds=3.0)),
        failures=(SlotFailure(1, NoImageError("m")),),
        cache_status=CacheStatus.PARTIAL,
        retries=4,
    )
    made = record()
    made.describe_result(result)
    assert (made.images, made.failure_codes, made.retry_count, made.cache) == (2, ["IMG_NO_IMAGE"], 4, "partial")
    assert (made.savings_usd, made.usage.total_tokens, made.fresh_usage.total_tokens) == (0.25, 18, 9)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@settings(max_examples=50)
def test_hashes_are_sixteen_hex_digits_and_salted_ones_are_keyed(text: str, salt: str) -> None:
    assert private_hash(text, salt=None) == hashlib.sha256(text.encode()).hexdigest()[:16]
    salted = private_hash(text, salt=salt)
    assert salted == hmac.new(salt.encode(), text.encode(), "sha256").hexdigest()[:16]
    assert salted != private_hash(text, salt=None)
    assert private_hash(text, salt="") == private_hash(text, salt=None)
