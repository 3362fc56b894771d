"""One picture's attempts upstream: an account, a call, and the decision whether to try again."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from sfumato.engine.presence import Presence
from sfumato.errors import DeadlineError, ImageError, QuotaExhaustedError, RateLimitedError
from sfumato.images.request import ImageRequest
from sfumato.telemetry.observer import Operation, OperationRecord, Step
from sfumato.upstream.accounts import Account, AccountPool, Backend
from sfumato.upstream.retry import RetryPolicy, is_of_account
from sfumato.upstream.transport import GeminiTransport, read_answer
from sfumato.wire.gemini import Answer
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


@dataclass(frozen=True, slots=True)
class _Trail:
    """The attempts so far, in their order.

    Attributes:
        tried: Each one's account.
        failures: What ended each.
    """

    tried: list[Account] = field(default_factory=list)
    failures: list[ImageError] = field(default_factory=list)

    def refused(self) -> list[Account]:
        """List the accounts that cannot answer; the others met faults that may have passed."""
        return [account for account, failure in zip(self.tried, self.failures, strict=True) if is_of_account(failure)]


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
        trail = _Trail()
        while True:
            account = work.account or await self._acquire(work.model, trail)
            work.record.accounts.append(account.label)
            attempt = len(trail.tried) + 1
            outcome = await self._attempt(work, account, attempt=attempt)
            if isinstance(outcome, Answer):
                return Paid(outcome, account)
            trail.tried.append(account)
            trail.failures.append(outcome)
            delay = self._delay(work, trail, remaining_seconds=work.deadline - self.clock())
            if delay is None or work.deadline - self.clock() <= _SHORTEST_SECONDS or work.presence.left:
                error = self._last_word(work, trail)
                error.attempts = attempt
                error.short_of_time = self._delay(work, trail, remaining_seconds=math.inf) is not None
                raise error
            work.record.retry_count += 1
            work.operation.retry(outcome, attempt=attempt, delay_seconds=delay)
            await self.sleep(delay)

    async def _acquire(self, model: str, trail: _Trail) -> Account:
        avoided = trail.tried
        if not self.accounts.has_other(model, avoided):
            avoided = trail.refused() or avoided
        try:
            return await self.accounts.acquire(model, tried=avoided)
        except ImageError as error:
            error.attempts = max(1, len(trail.tried))
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
                answer = await read_answer(reply)
            except ImageError as error:
                step.error, step.outcome = error, error.code
                raise
            step.outcome, step.finish_reason, step.response_id = "ok", answer.finish_reason, answer.response_id
            return answer

    def _delay(self, work: Work, trail: _Trail, *, remaining_seconds: float) -> float | None:
        other = work.account is None and self.accounts.has_other(work.model, trail.tried)
        return self.retry.delay(
            trail.failures if other else self._decisive(work, trail),
            other_account=other,
            remaining_seconds=remaining_seconds,
            jitter=self.random(),
        )

    def _decisive(self, work: Work, trail: _Trail) -> list[ImageError]:
        """Return the failures up to the one that decides.

        A refused account ends nothing while one is usable that met a fault that may have passed: then that decides.
        """
        counted = [failure for failure in trail.failures if not is_of_account(failure)]
        if counted and work.account is None and self.accounts.has_other(work.model, trail.refused()):
            return counted
        return trail.failures

    def _last_word(self, work: Work, trail: _Trail) -> ImageError:
        """Return what to raise: past the request's own deadline that, and for want of accounts when one is free."""
        failure = self._decisive(work, trail)[-1]
        is_late = work.deadline - self.clock() <= _SHORTEST_SECONDS
        if isinstance(failure, DeadlineError) and is_late:
            return out_of_time()
        if work.account is not None or not is_of_account(failure):
            return failure
        if self.accounts.has_other(work.model, ()):
            # One account's quota is no news for a client that another account can serve.
            return out_of_time() if is_late else _free_again()
        exhausted = self.accounts.exhausted(work.model)
        return exhausted if isinstance(exhausted, RateLimitedError | QuotaExhaustedError) else failure


def _free_again() -> RateLimitedError:
    return RateLimitedError(
        "The accounts were refused, and one is free again. Send the request again.",
        reason="per_minute",
        retry_after=1.0,
    )


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
