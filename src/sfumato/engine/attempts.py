"""One picture's attempts upstream: an account, a call, and the decision whether to try again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sfumato.errors import DeadlineError, ImageError
from sfumato.images.request import ImageRequest
from sfumato.telemetry.observer import Operation, OperationRecord, Step
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.retry import RetryPolicy
from sfumato.upstream.transport import GeminiTransport
from sfumato.wire.gemini import Answer, parse_response
from sfumato.wire.payload import Pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Call upstream until there is an answer or no hope.

    Attributes:
        clock: Monotonic seconds.
        sleep: Waits for seconds.
        random: A number in [0, 1).
    """

    transport: GeminiTransport
    accounts: AccountPool
    retry: RetryPolicy
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]

    async def run(
        self,
        request: ImageRequest,
        body: Pieces,
        *,
        slot: int,
        account: Account | None,
        deadline: float,
        operation: Operation,
        record: OperationRecord,
    ) -> Answer:
        """Return the first answer with a picture.

        Args:
            request: What is asked for.
            body: The generateContent body, sent again as it is on each attempt.
            slot: Which of the n pictures.
            account: The caller's own account; the pool is then left alone.
            deadline: When to stop, on *clock*.
            operation: Told of attempts and retries.
            record: Counts retries and names accounts.

        Raises:
            ImageError: The last attempt's error; its ``attempts`` counts them.
        """
        tried: list[Account] = []
        attempt = 0
        while True:
            attempt += 1
            chosen = account or self.accounts.acquire(tried=tried)
            tried.append(chosen)
            record.accounts.append(chosen.label)
            step = Step(
                name="attempt",
                slot=slot,
                attempt=attempt,
                account=chosen.label,
                backend=chosen.backend,
                server=chosen.server,
            )
            try:
                with operation.step(step):
                    return await self._call(request, body, chosen, step)
            except ImageError as error:
                failure = error
            finally:
                if account is None:
                    self.accounts.release(chosen)
            failure.attempts = attempt
            delay = self.retry.delay(
                failure,
                attempt=attempt,
                other_account=account is None and self.accounts.has_other(tried),
                remaining_seconds=deadline - self.clock(),
                jitter=self.random(),
            )
            if delay is None or deadline <= self.clock():
                raise failure
            record.retry_count += 1
            operation.retry(failure, attempt=attempt, delay_seconds=delay)
            await self.sleep(delay)

    async def _call(self, request: ImageRequest, body: Pieces, account: Account, step: Step) -> Answer:
        try:
            answer = parse_response(await self.transport.generate(account, request.variant.family.name, body))
        except ImageError as error:
            step.error, step.outcome = error, error.code
            raise
        step.outcome, step.finish_reason, step.response_id = "ok", answer.finish_reason, answer.response_id
        return answer


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
