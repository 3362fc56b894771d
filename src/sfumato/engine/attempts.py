"""One picture's attempts upstream: an account, a call, and the decision whether to try again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from sfumato.engine.presence import Presence
from sfumato.errors import DeadlineError, ImageError, QuotaExhaustedError, RateLimitedError
from sfumato.images.request import ImageRequest
from sfumato.telemetry.observer import Operation, OperationRecord, Step
from sfumato.upstream.accounts import Account, AccountPool, Backend
from sfumato.upstream.retry import RetryPolicy
from sfumato.upstream.transport import GeminiTransport
from sfumato.wire.gemini import Answer, parse_response
from sfumato.wire.payload import Pieces

_SHORTEST_SECONDS = 0.001

BodyFor: TypeAlias = Callable[[Backend], Pieces]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One picture that is wanted of upstream.

    Attributes:
        request: What is asked for.
        slot: Which of the n pictures.
        body_for: Gives the generateContent body for a backend, the same at each call.
        account: The caller's own account; the pool is then left alone.
        deadline: When to stop, in monotonic seconds.
        operation: Told of attempts and retries.
        record: Counts retries and names accounts.
        presence: Told when upstream renders; a client that left is not tried for again.
    """

    request: ImageRequest
    slot: int
    body_for: BodyFor
    account: Account | None
    deadline: float
    operation: Operation
    record: OperationRecord
    presence: Presence

    @property
    def model(self) -> str:
        """Return the model id that Gemini knows."""
        return self.request.variant.family.name


@dataclass(frozen=True, slots=True)
class Paid:
    """An answer with a picture, and the account that it was made with."""

    answer: Answer
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Call upstream until there is an answer or no hope.

    Attributes:
        attempt_timeout_seconds: Bound of one attempt, from connecting to the last byte.
        clock: Monotonic seconds.
        sleep: Waits for seconds.
        random: A number in [0, 1).
    """

    transport: GeminiTransport
    accounts: AccountPool
    retry: RetryPolicy
    attempt_timeout_seconds: float
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]

    async def run(self, work: Work) -> Paid:
        """Return the first answer with a picture.

        Raises:
            ImageError: The last attempt's error; its ``attempts`` counts them. With every account of the pool out of
                use it comes at once and tells the soonest time that one is free.
        """
        tried: list[Account] = []
        while True:
            account = work.account or await self._acquire(work.model, tried)
            tried.append(account)
            work.record.accounts.append(account.label)
            outcome = await self._attempt(work, account, attempt=len(tried))
            if isinstance(outcome, Answer):
                return Paid(outcome, account)
            outcome.attempts = len(tried)
            delay = self._delay(outcome, work, tried)
            if delay is None or work.deadline - self.clock() <= _SHORTEST_SECONDS or work.presence.left:
                raise self._last_word(outcome, work)
            work.record.retry_count += 1
            work.operation.retry(outcome, attempt=len(tried), delay_seconds=delay)
            await self.sleep(delay)

    async def _acquire(self, model: str, tried: list[Account]) -> Account:
        try:
            return await self.accounts.acquire(model, tried=tried)
        except ImageError as error:
            error.attempts = max(1, len(tried))
            raise

    async def _attempt(self, work: Work, account: Account, *, attempt: int) -> Answer | ImageError:
        outcome: Answer | ImageError
        work.presence.render(work.slot)
        try:
            outcome = await self._call(work, account, attempt)
        except ImageError as error:
            outcome = error
        finally:
            if work.account is None:
                self.accounts.release(account)
        if work.account is None:
            await self.accounts.report(account, work.model, outcome if isinstance(outcome, ImageError) else None)
        if isinstance(outcome, ImageError):
            work.presence.pause()
        return outcome

    async def _call(self, work: Work, account: Account, attempt: int) -> Answer:
        step = Step(
            name="attempt",
            slot=work.slot,
            attempt=attempt,
            account=account.label,
            backend=account.backend,
            server=account.server,
        )
        timeout = max(_SHORTEST_SECONDS, min(self.attempt_timeout_seconds, work.deadline - self.clock()))
        body = work.body_for(account.backend)
        with work.operation.step(step):
            try:
                reply = await self.transport.generate(account, work.model, body, timeout_seconds=timeout)
                answer = parse_response(reply)
            except ImageError as error:
                step.error, step.outcome = error, error.code
                raise
            step.outcome, step.finish_reason, step.response_id = "ok", answer.finish_reason, answer.response_id
            return answer

    def _delay(self, failure: ImageError, work: Work, tried: list[Account]) -> float | None:
        return self.retry.delay(
            failure,
            attempt=len(tried),
            other_account=work.account is None and self.accounts.has_other(work.model, tried),
            remaining_seconds=work.deadline - self.clock(),
            jitter=self.random(),
        )

    def _last_word(self, failure: ImageError, work: Work) -> ImageError:
        """Return what to raise: past the request's own deadline that, and for want of accounts when one is free."""
        if isinstance(failure, DeadlineError) and work.deadline - self.clock() <= _SHORTEST_SECONDS:
            return out_of_time(attempts=failure.attempts)
        if work.account is not None or not isinstance(failure, RateLimitedError | QuotaExhaustedError):
            return failure
        exhausted = self.accounts.exhausted(work.model)
        if not isinstance(exhausted, RateLimitedError | QuotaExhaustedError):
            return failure
        exhausted.attempts = failure.attempts
        return exhausted


def out_of_time(*, attempts: int = 1) -> DeadlineError:
    """Return the error of a picture whose deadline passed.

    Repeating takes as long again, and is billed again: clients and routers are told not to.
    """
    error = DeadlineError(
        "The picture was not finished before the deadline. Ask for a smaller tier, or raise the timeout.",
        reason="deadline",
        retryable=False,
    )
    error.attempts = attempts
    return error
