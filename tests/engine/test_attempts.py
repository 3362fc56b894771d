from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest

from sfumato.engine.attempts import Attempts, Work
from sfumato.engine.presence import Presence
from sfumato.errors import (
    DeadlineError,
    ImageError,
    ModelNotFoundError,
    QuotaExhaustedError,
    RateLimitedError,
    ServiceUnavailableError,
    UpstreamAuthError,
)
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
SPENT = QuotaExhaustedError("m", reason="per_day", retry_after=40_000.0)
REVOKED = UpstreamAuthError("m", reason="API_KEY_INVALID")
LACKING = ModelNotFoundError("m", param="model", reason="unavailable")
# An answer without a picture, and without a word why.
NO_IMAGE = b'{"candidates":[{"finishReason":"NO_IMAGE"}]}'


class Rig:
    """Attempts whose upstream is a list of what happens, call by call."""

    def __init__(self, *happenings: ImageError | bytes, keys: tuple[str, ...] = ("a", "b")) -> None:
        self.seen = Recording()
        self.record = OperationRecord(call=Call(request_id="req"))
        self.presence = Presence()
        self.used: list[str] = []
        self.after_call: Callable[[], None] = lambda: None
        self.accounts = [Account.at(key, key, "http://test", "v1beta") for key in keys]
        self.pool = AccountPool(
            self.accounts, clock=self.seen.clock, wall_clock=self.seen.wall_clock, trial_seconds=0.0
        )
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
    """A quota error moves on at once, but not past the deadline: the picture would come to nobody.

    The account's day is no news for the client: another account can serve it.
    """
    rig = Rig(SPENT, ANSWER)

    def time_passes() -> None:
        rig.seen.now = 3000.0

    rig.after_call = time_passes
    with pytest.raises(DeadlineError) as failed:
        await rig.run(deadline=2000.0)
    assert rig.used == ["a"]
    assert (failed.value.attempts, failed.value.retry_after) == (1, None)


async def test_refused_accounts_are_as_many_as_there_are_and_no_attempts() -> None:
    rig = Rig(SPENT, REVOKED, SPENT, LACKING, *[ServiceUnavailableError("m")] * 2, ANSWER, keys=tuple("abcde"))
    await rig.run()
    assert rig.used == ["a", "b", "c", "d", "e", "e", "e"]


async def test_a_refused_account_ends_nothing_while_another_met_what_may_pass() -> None:
    rig = Rig(ServiceUnavailableError("m"), SPENT, ANSWER)
    await rig.run()
    assert rig.used == ["a", "b", "a"]
    assert rig.seen.slept == [0.0, 0.25]


async def test_the_error_is_the_usable_accounts_and_not_the_refused_ones() -> None:
    rig = Rig(ServiceUnavailableError("m", retry_after=60.0), SPENT)
    with pytest.raises(ServiceUnavailableError) as failed:
        await rig.run()
    assert (failed.value.attempts, failed.value.retry_after) == (2, 60.0)


async def test_an_account_that_is_free_again_is_not_told_as_another_s_day() -> None:
    rig = Rig(RateLimitedError("m", retry_after=1.0), SPENT)

    def time_passes() -> None:
        rig.seen.now += 2.0

    rig.after_call = time_passes
    with pytest.raises(RateLimitedError) as failed:
        await rig.run()
    assert rig.used == ["a", "b"]
    assert failed.value.retry_after == 1.0


async def test_refused_credentials_are_not_told_while_others_merely_rest() -> None:
    rig = Rig(REVOKED)
    resting = next(account for account in rig.accounts if account.label == "b")
    await rig.pool.report(resting, "gemini-3-pro-image", RateLimitedError("m", retry_after=20.0))
    with pytest.raises(RateLimitedError) as failed:
        await rig.run()
    assert (rig.used, failed.value.retry_after) == (["a"], 20.0)


async def test_refused_credentials_are_told_when_there_are_no_others() -> None:
    rig = Rig(REVOKED, REVOKED)
    with pytest.raises(UpstreamAuthError) as failed:
        await rig.run()
    assert failed.value.attempts == 2


@pytest.mark.parametrize("keys", [("a",), ("a", "b")])
async def test_a_model_that_no_account_has_is_googles_to_deny(keys: tuple[str, ...]) -> None:
    rig = Rig(*[LACKING] * (len(keys) + 1), keys=keys)
    for calls in (len(keys), 1):
        rig.used.clear()
        with pytest.raises(ModelNotFoundError):
            await rig.run()
        assert len(rig.used) == calls


async def test_a_picture_that_was_not_made_is_asked_for_once_more_after_another_fault() -> None:
    rig = Rig(ServiceUnavailableError("m"), NO_IMAGE, ANSWER)
    await rig.run()
    assert len(rig.used) == 3


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
