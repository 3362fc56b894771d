"""What is observed of a request: one record, filled as it runs, and the protocols of who looks. Names no vendor."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sfumato.errors import ImageError, InternalError
from sfumato.images.prompts import STYLE_PHRASES
from sfumato.images.request import ImageRequest, ImageResult, Usage
from sfumato.telemetry.vitals import Vitals

_log = logging.getLogger("sfumato")
_CLIENT_CLOSED_REQUEST = 499


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Where a request came from.

    Attributes:
        request_id: The id that the client is told.
        trace_id: Trace id of the caller's ``traceparent``, 32 hex digits.
        door: ``asgi``, ``litellm`` or ``library``.
        caller: Who calls, as a label or an opaque id, finer than a tenant where several callers are one; never a key.
        idempotency_key: The client's ``Idempotency-Key``.
        traceparent, tracestate: The request's headers as they came.
        parent: The span of the program around us, opaque here; it goes before the ambient one.
    """

    request_id: str
    trace_id: str | None = None
    door: str = "library"
    caller: str | None = None
    idempotency_key: str | None = field(default=None, repr=False)
    traceparent: str | None = None
    tracestate: str | None = None
    parent: object | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one answer of Gemini's cost, and whom: an account's label and US dollars."""

    account: str
    cost_usd: float


@dataclass(slots=True, kw_only=True)
class OperationRecord:
    """Everything that telemetry may say of one request. Never a prompt, picture, key or address.

    Attributes:
        model: The variant that is served, one of a list that is finite; None where none was understood.
        family: The model id that Gemini knows.
        retry_count: Attempts that this request made beyond the first of each picture; an error that it shares with
            another request tells of that one's `attempts`.
        charges: What was paid, per answer; also for pictures that nobody waited for any more.
        abandoned: The client went away before its answer.
        fresh_usage: Tokens of the pictures that Gemini made for this request; of hits none.
        trace_id: Of the operation's span, 32 hex digits, where there is one.
        span_id: Of that span, 16 hex digits, where it is recorded.
    """

    call: Call
    operation: str = "generation"
    model: str | None = None
    family: str | None = None
    tenant: str | None = None
    user_hash: str | None = None
    prompt_hash: str | None = None
    resolution: str | None = None
    aspect_ratio: str | None = None
    quality: str | None = None
    style: str | None = None
    n: int = 1
    safety_level: str | None = None
    accounts: list[str] = field(default_factory=list)
    retry_count: int = 0
    images: int = 0
    failure_codes: list[str] = field(default_factory=list)
    cache: str | None = None
    charges: list[Charge] = field(default_factory=list)
    cost_usd: float = 0.0
    savings_usd: float = 0.0
    usage: Usage = field(default_factory=Usage)
    duration_seconds: float = 0.0
    error: ImageError | None = None
    status_code: int = 200
    seed: int | None = None
    abandoned: bool = False
    fresh_usage: Usage = field(default_factory=Usage)
    trace_id: str | None = None
    span_id: str | None = None

    def describe_request(self, request: ImageRequest, *, salt: str | None = None) -> None:
        """Fill in what was asked for; the prompt and the user are hashed."""
        self.operation = request.operation.value
        self.model = request.resolved_variant.name
        self.family = request.variant.family.name
        self.seed = request.seed
        self.tenant = request.tenant
        self.user_hash = private_hash(request.user, salt=salt) if request.user else None
        self.prompt_hash = private_hash(request.prompt, salt=salt)
        self.resolution = request.tier or request.variant.family.default_tier
        self.aspect_ratio = request.aspect_ratio
        self.quality = request.quality
        # A client's own style text is its text, like the prompt.
        self.style = request.style if request.style in STYLE_PHRASES else "custom" if request.style else None
        self.n = request.n
        self.safety_level = request.safety.level

    def describe_result(self, result: ImageResult) -> None:
        """Fill in what came of it."""
        self.images = len(result.images)
        self.failure_codes = [failure.error.code for failure in result.failures]
        self.retry_count = result.retries
        self.cache = result.cache_status.value
        self.savings_usd = result.savings_usd
        self.usage = result.usage
        self.fresh_usage = sum((image.usage for image in result.images if image.age_seconds is None), Usage())


@dataclass(slots=True, kw_only=True)
class Step:
    """A part of the work on a request; whoever does it fills in how it ended before the step is left.

    Attributes:
        name: ``cache.lookup``, ``attempt`` or ``cache.store``.
        slot: Which of the n pictures.
        attempt: Number of an attempt, from 1.
        account: Label of an attempt's account.
        backend: Which Google API an attempt calls: ``gemini`` or ``vertex``.
        server: Host and, where it is not the scheme's own, port that an attempt calls.
        outcome: ``hit``, ``miss``, ``stored``, ``kept_out``, ``ok``; of a failed attempt the error's code.
        error: What an attempt failed with.
        finish_reason, response_id: Gemini's words of an answer.
    """

    name: Literal["cache.lookup", "attempt", "cache.store"]
    slot: int = 0
    attempt: int = 0
    account: str | None = None
    backend: str | None = None
    server: str | None = None
    outcome: str | None = None
    error: ImageError | None = None
    finish_reason: str | None = None
    response_id: str | None = None


class Operation(Protocol):
    """One request as an observer follows it."""

    def step(self, step: Step) -> AbstractContextManager[None]:
        """Enclose a part of the work, maybe on another task than the request's; *step* is complete on leaving."""
        ...

    def retry(self, error: ImageError, *, attempt: int, delay_seconds: float) -> None:
        """Note that an attempt failed and another follows."""
        ...

    def end(self) -> None:
        """Note that the request ended; its record is complete."""
        ...


class Observer(Protocol):
    """Whoever wants to see requests."""

    def begin(self, record: OperationRecord) -> Operation:
        """Begin to follow a request; *record* fills up until `Operation.end`."""
        ...

    def watch(self, vitals: Vitals) -> None:
        """Look at *vitals* from now on, as long as somebody else keeps it."""
        ...


class NullOperation:
    """An operation that nobody looks at; the base for observers that care for some of it."""

    def step(self, step: Step) -> AbstractContextManager[None]:  # noqa: ARG002  # the protocol's signature
        """Enclose a part of the work."""
        return nullcontext()

    def retry(self, error: ImageError, *, attempt: int, delay_seconds: float) -> None:
        """Note that an attempt failed."""

    def end(self) -> None:
        """Note that the request ended."""


class NullObserver:
    """The default: looks at nothing."""

    def begin(self, record: OperationRecord) -> Operation:  # noqa: ARG002  # the protocol's signature
        """Begin to follow a request."""
        return NullOperation()

    def watch(self, vitals: Vitals) -> None:
        """Look at nothing."""


class ObserverGroup:
    """Several observers as one.

    Args:
        observers: Whoever wants to see requests, in the order in which they are told.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def begin(self, record: OperationRecord) -> Operation:
        """Begin to follow a request with every observer."""
        return _OperationGroup([observer.begin(record) for observer in self._observers])

    def watch(self, vitals: Vitals) -> None:
        """Show *vitals* to every observer."""
        for observer in self._observers:
            observer.watch(vitals)


class _OperationGroup:
    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        with ExitStack() as stack:
            for operation in self._operations:
                stack.enter_context(operation.step(step))
            yield

    def retry(self, error: ImageError, *, attempt: int, delay_seconds: float) -> None:
        for operation in self._operations:
            operation.retry(error, attempt=attempt, delay_seconds=delay_seconds)

    def end(self) -> None:
        for operation in reversed(self._operations):
            operation.end()


def begin(observer: Observer, record: OperationRecord) -> Operation:
    """Begin to follow a request, in its own context; `followed` ends it."""
    try:
        return observer.begin(record)
    except Exception:  # noqa: BLE001  # whoever looks must not decide what is answered
        _log.exception("An observer failed; the request goes on unobserved")
        return NullOperation()


@contextmanager
def followed(operation: Operation, record: OperationRecord, *, clock: Callable[[], float]) -> Iterator[Operation]:
    """Follow a request to the end of the block; errors are noted in *record* and raised on.

    Args:
        operation: What `begin` returned.
        record: The request's record.
        clock: Monotonic seconds.
    """
    started = clock()
    try:
        yield operation
    except ImageError as error:
        _note(record, error)
        raise
    except Exception:
        _note(record, InternalError())
        raise
    except BaseException:
        record.abandoned = True
        raise
    finally:
        if record.abandoned and record.error is None:
            record.status_code = _CLIENT_CLOSED_REQUEST
        record.cost_usd = sum(charge.cost_usd for charge in record.charges)
        record.duration_seconds = clock() - started
        _end(operation)


def note_refusal(observer: Observer, record: OperationRecord, error: ImageError) -> None:
    """Show a request that ended before any work on it began."""
    _note(record, error)
    _end(begin(observer, record))


def _end(operation: Operation) -> None:
    try:
        operation.end()
    except Exception:  # noqa: BLE001  # the same
        _log.exception("An observer failed; the request is answered all the same")


def private_hash(text: str, *, salt: str | None) -> str:
    """Return 16 hex digits of SHA-256, or of HMAC-SHA-256 keyed with *salt*, which a dictionary cannot undo."""
    if salt:
        return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _note(record: OperationRecord, error: ImageError) -> None:
    record.error = error
    record.status_code = error.status
