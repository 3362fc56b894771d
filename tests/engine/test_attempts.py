from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest

from sfumato.engine.attempts import Attempts, Work
from sfumato.engine.presence import Presence
from sfumato.errors import DeadlineError, ImageError, QuotaExhaustedError, RateLimitedError, ServiceUnavailableError
from sfumato.images.request import Operation
from sfumato.images.resolution import ImageWish, RequestPolicy, resolve
from sfumato.images.variants import parse_variant
from sfumato.telemetry.observer import Call, OperationRecord
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.retry import RetryPolicy
from sfumato.upstream.transport import GeminiTransport
from sfumato.wire.lifter import Lifted, lift
from tests.support.clients import Recording

pytestmark = pytest.mark.anyio
ANSWER = (
    b'{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]},'
    b'"finishReason":"STOP"}]}'
)


class Rig:
    """Attempts whose upstream is a list of what happens, call by call."""

    def __init__(self, *happenings: ImageError | bytes, keys: tuple[str, ...] = ("a", "b")) -> None:
        self.seen = Recording()
        self.record = OperationRecord(call=Call(request_id="req"))
        self.presence = Presence()
        self.used: list[str] = []
        self.after_call: Callable[[], None] = lambda: None
        accounts = [Account.at(key, key, "http://test", "v1beta") for key in keys]
        self.pool = AccountPool(accounts, clock=self.seen.clock, wall_clock=self.seen.wall_clock, trial_seconds=0.0)
        self._happenings = list(happenings)
        self.attempts = Attempts(
            transport=cast("GeminiTransport", self),
            accounts=self.pool,
            retry=RetryPolicy(max_attempts=3),
            attempt_timeout_seconds=60.0,
            clock=self.seen.clock,
            sleep=self.seen.sleep,
            random=lambda: 0.5,
        )

    async def generate(self, account: Account, model: str, body: Any, *, timeout_seconds: float) -> Lifted:
        self.used.append(account.label)
        happening = self._happenings.pop(0)
        self.after_call()
        if isinstance(happening, ImageError):
            raise happening
        return lift(happening)

    async def run(self, *, account: Account | None = None, deadline: float = 2000.0) -> Any:
        variant = parse_variant("gemini-3-pro-image")
        assert variant
        wish = ImageWish(operation=Operation.GENERATION, variant=variant, prompt="x")
        work = Work(
            request=resolve(wish, RequestPolicy()),
            slot=0,
            body_for=lambda _: (b"{}",),
            account=account,
            deadline=deadline,
            operation=self.seen,
            record=self.record,
            presence=self.presence,
        )
        paid = await self.attempts.run(work)
        return paid.answer


def busy(pool: AccountPool) -> int:
    return sum(state.running for state in pool.states())


async def test_accounts_are_given_back_however_it_ends() -> None:
    for happenings in ((ANSWER,), (ServiceUnavailableError("m"), ANSWER), (RateLimitedError("m"),) * 2):
        rig = Rig(*happenings)
        with contextlib.suppress(RateLimitedError):
            await rig.run()
        assert busy(rig.pool) == 0


async def test_an_account_of_the_callers_own_is_not_the_pools() -> None:
    rig = Rig(ServiceUnavailableError("m"), ANSWER)
    await rig.run(account=Account.at("own", "k", "http://test", "v1beta"))
    assert rig.used == ["own", "own"]
    assert busy(rig.pool) == 0


async def test_another_account_is_not_tried_when_the_time_is_over() -> None:
    """A quota error moves on at once, but not past the deadline: the picture would come to nobody."""
    rig = Rig(QuotaExhaustedError("m"), ANSWER)

    def time_passes() -> None:
        rig.seen.now = 3000.0

    rig.after_call = time_passes
    with pytest.raises(QuotaExhaustedError) as failed:
        await rig.run(deadline=2000.0)
    assert rig.used == ["a"]
    assert failed.value.attempts == 1


async def test_the_last_error_knows_how_often_it_was_tried() -> None:
    rig = Rig(*[ServiceUnavailableError("m")] * 3)
    with pytest.raises(ServiceUnavailableError) as failed:
        await rig.run()
    assert failed.value.attempts == 3
    assert rig.record.retry_count == 2
    assert rig.record.accounts == rig.used == ["a", "b", "a"]
    assert rig.seen.slept == [0.0, 0.5], "another account at once, the same one after a while"


async def test_what_is_not_ours_to_translate_passes_and_frees_the_account() -> None:
    rig = Rig(ANSWER)

    def breaks() -> None:
        raise httpx.DecodingError("not an ImageError")

    rig.after_call = breaks
    with pytest.raises(httpx.DecodingError):
        await rig.run()
    assert busy(rig.pool) == 0


async def test_an_attempt_that_took_all_of_the_time_is_the_deadlines_end() -> None:
    """Both bounds pass at once: only the request's own says that nobody is to try again."""
    rig = Rig(DeadlineError("m", reason="attempt_timeout"), ANSWER)

    def time_passes() -> None:
        rig.seen.now = 2000.0

    rig.after_call = time_passes
    with pytest.raises(DeadlineError) as failed:
        await rig.run(deadline=2000.0)
    assert (failed.value.reason, failed.value.worth_repeating) == ("deadline", False)
