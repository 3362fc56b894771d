from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sfumato.cache.noop import NoopStore
from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.errors import (
    ConfigurationError,
    DeadlineError,
    ImageError,
    InternalError,
    InvalidImageError,
    NetworkError,
    NoImageError,
    PayloadTooLargeError,
    QuotaExhaustedError,
    RateLimitedError,
    SafetyBlockedError,
    ServiceUnavailableError,
    UpstreamAuthError,
    UpstreamFailureError,
)
from sfumato.images.request import CacheStatus
from sfumato.images.resolution import RequestPolicy
from sfumato.images.safety import Threshold
from sfumato.wire.payload import raw_bytes
from tests.conftest import Emulator
from tests.support import samples
from tests.support.clients import bench
from tests.support.servers import serving

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def keyed_emulator() -> Iterator[Emulator]:
    """An emulator in which some keys are out of order."""
    faults = {"spent": "429-day:3600", "limited": "429:20", "revoked": "403", "broken": "500"}
    with serving(create_emulator(EmulatorOptions(key_faults=faults))) as url:
        yield Emulator(url)


async def test_a_passing_fault_is_retried_with_growing_delays(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        result = await it.make("x [[emulator:503;times=2;id=retry]]")
    assert result.retries == 2
    assert it.seen.slept == [0.5, 1.0]
    assert [code for code, _ in it.seen.retries] == ["IMG_SERVICE_UNAVAILABLE"] * 2
    assert it.seen.records[0].retry_count == 2


async def test_googles_own_delay_comes_first(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        await it.make("x [[emulator:503:7;times=1;id=delay]]")
    assert it.seen.slept == [7.0]


async def test_a_delay_beyond_the_deadline_is_not_waited_for(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        with pytest.raises(ServiceUnavailableError) as failed:
            await it.make("x [[emulator:503:120;id=late]]")
    assert failed.value.retry_after == 120
    assert it.seen.slept == []


async def test_attempts_are_capped_and_counted(emulator: Emulator) -> None:
    """What was already tried here says so, or clients and routers multiply the retries."""
    async with bench(emulator.url, max_attempts=2) as it:
        with pytest.raises(UpstreamFailureError) as failed:
            await it.make("x [[emulator:500;id=cap]]")
    assert failed.value.attempts == 2
    assert not failed.value.worth_repeating
    assert len(emulator.calls()) == 2


@pytest.mark.parametrize(
    ("fault", "error", "calls"),
    [
        ("NO_IMAGE", NoImageError, 2),
        ("IMAGE_OTHER", NoImageError, 2),
        ("text-only", NoImageError, 1),
        ("MAX_TOKENS", NoImageError, 1),
        ("IMAGE_SAFETY", SafetyBlockedError, 1),
        ("RECITATION", SafetyBlockedError, 1),
        ("block:OTHER", SafetyBlockedError, 1),
        ("no-candidates", NoImageError, 1),
        ("400", ImageError, 1),
        ("404", ImageError, 1),
        ("429:9", RateLimitedError, 1),
        ("429-day:9", QuotaExhaustedError, 1),
        ("401", UpstreamAuthError, 1),
        ("location", ConfigurationError, 1),
        ("504", DeadlineError, 3),
        ("garbage", UpstreamFailureError, 1),
        ("empty-body", UpstreamFailureError, 1),
        ("html:502", UpstreamFailureError, 3),
        ("truncated", NetworkError, 3),
        ("reset", NetworkError, 3),
    ],
)
async def test_every_ending_has_its_error_and_its_number_of_calls(
    emulator: Emulator, fault: str, error: type[ImageError], calls: int
) -> None:
    async with bench(emulator.url) as it:
        with pytest.raises(error):
            await it.make(f"x [[emulator:{fault};id=endings]]")
    assert len(emulator.calls()) == calls


@pytest.mark.parametrize("fault", ["data-uri", "thoughts-only", "drafts:3", "thoughts:2", "png", "usage-missing"])
async def test_every_unusual_answer_gives_its_picture(emulator: Emulator, fault: str) -> None:
    async with bench(emulator.url) as it:
        result = await it.make(f"x [[emulator:{fault};id=unusual]]", image_size="1K")
    (image,) = result.images
    assert image.picture.encoded
    assert samples.opened(raw_bytes(image.picture)).size == (
        image.picture.width,
        image.picture.height,
    )
    assert image.price_usd > 0


async def test_bytes_decide_the_type_not_the_declared_one(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        result = await it.make("x [[emulator:wrong-mime;id=mime]]")
    picture = result.images[0].picture
    assert samples.opened(raw_bytes(picture)).format == picture.format.upper()


async def test_another_account_takes_over_at_once(keyed_emulator: Emulator) -> None:
    """Quota, rate limit and a refused key concern one account only; no time is lost on them."""
    keyed_emulator.clear()
    async with bench(keyed_emulator.url, keys=("spent", "limited", "good")) as it:
        result = await it.make()
    assert result.retries == 2
    assert it.seen.slept == [0.0, 0.0]
    assert it.seen.records[0].accounts == ["spent", "limited", "good"]


async def test_all_accounts_out_answers_with_the_last_one(keyed_emulator: Emulator) -> None:
    async with bench(keyed_emulator.url, keys=("spent", "limited")) as it:
        with pytest.raises(RateLimitedError) as failed:
            await it.make()
    assert failed.value.retry_after == 20


async def test_the_n_calls_spread_over_the_accounts(emulator: Emulator) -> None:
    async with bench(emulator.url, keys=("account-aaaa", "account-bbbb")) as it:
        await it.make("spread", n=4)
    assert sorted(str(call["key_hint"]) for call in emulator.calls()) == ["aaaa"] * 2 + ["bbbb"] * 2


async def test_a_request_may_bring_its_own_account(keyed_emulator: Emulator) -> None:
    """Then the pool's keys stay out of it, also for retries."""
    keyed_emulator.clear()
    async with bench(keyed_emulator.url, keys=("good",)) as it:
        with pytest.raises(QuotaExhaustedError):
            await it.make(account=it.account("own", "spent"))
    assert len(keyed_emulator.calls()) == 1


async def test_partial_success_keeps_the_pictures(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        result = await it.make("x [[emulator:IMAGE_SAFETY;every=2;id=some]]", n=4)
    assert len(result.images) == 2
    assert [failure.error.code for failure in result.failures] == ["IMG_SAFETY_BLOCKED"] * 2
    assert sorted([i.slot for i in result.images] + [f.slot for f in result.failures]) == [0, 1, 2, 3]
    assert it.seen.records[0].failure_codes == ["IMG_SAFETY_BLOCKED"] * 2


async def test_of_many_errors_the_highest_is_told(emulator: Emulator) -> None:
    """Blocked outranks quota outranks the rest."""
    async with bench(emulator.url) as it:
        with pytest.raises(SafetyBlockedError):
            await it.make("x [[emulator:IMAGE_SAFETY;times=1;id=r]] [[emulator:429:5;id=r]]", n=3)


async def test_slots_are_cached_one_by_one(emulator: Emulator) -> None:
    """n=4 after n=2 makes two calls; asked again, none."""
    async with bench(emulator.url) as it:
        two = await it.make("slots", n=2)
        four = await it.make("slots", n=4)
        again = await it.make("slots", n=4)
    assert [r.cache_status for r in (two, four, again)] == [CacheStatus.MISS, CacheStatus.PARTIAL, CacheStatus.HIT]
    assert len(emulator.calls()) == 4
    assert again.cost_usd == 0
    assert again.savings_usd == pytest.approx(four.savings_usd + four.cost_usd)
    assert four.savings_usd == pytest.approx(two.cost_usd)


async def test_what_a_hit_saves_is_what_the_emulator_would_have_billed(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        await it.make("price", n=2, image_size="4K")
        hit = await it.make("price", n=2, image_size="4K")
    assert hit.savings_usd == pytest.approx(sum(float(call["cost_usd"]) for call in emulator.calls()), abs=1e-6)


async def test_seeds_are_shared_between_slots(emulator: Emulator) -> None:
    """Slot i uses seed + i, so the second picture of seed 5 is the first of seed 6."""
    async with bench(emulator.url) as it:
        await it.make("seeded", n=2, seed=5)
        result = await it.make("seeded", seed=6)
    assert result.cache_status is CacheStatus.HIT
    assert [call["body"]["generationConfig"]["seed"] for call in emulator.calls()] == [5, 6]


async def test_without_a_cache_nothing_is_looked_up(emulator: Emulator) -> None:
    async with bench(emulator.url, store=NoopStore()) as it:
        result = await it.make()
    assert result.cache_status is CacheStatus.OFF
    assert "cache.lookup" not in it.seen.steps


async def test_errors_are_never_cached(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        with pytest.raises(SafetyBlockedError):
            await it.make("x [[emulator:IMAGE_SAFETY;times=1;id=once]]")
        result = await it.make("x [[emulator:IMAGE_SAFETY;times=1;id=once]]")
    assert result.cache_status is CacheStatus.MISS


async def test_a_deadline_ends_what_stalls_and_keeps_what_is_done(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot that stalls times out; the other's picture is delivered."""
    loop = asyncio.get_running_loop()
    passed, clock = 0.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + passed)
    async with bench(emulator.url, timeout_seconds=50.0) as it:
        making = asyncio.create_task(it.make("x [[emulator:stall-before:600;every=2;id=deadline]]", n=2))
        # The one is done, and the other is asked for.
        while "cache.store" not in it.seen.steps or len(emulator.calls()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        passed += 50.0
        result = await making
        monkeypatch.undo()
    async with bench(emulator.url, timeout_seconds=0.3) as late_one:
        with pytest.raises(DeadlineError) as late:
            await late_one.make("x [[emulator:stall:60;id=deadline]]")
    assert [type(failure.error) for failure in result.failures] == [DeadlineError]
    assert late.value.reason == "deadline"
    assert not late.value.worth_repeating, "who repeats it waits, and pays, once more"
    assert (it.seen.ended, late_one.seen.ended) == (1, 1)


async def test_a_shorter_deadline_of_the_caller_counts(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        with pytest.raises(DeadlineError):
            await it.make("x [[emulator:stall-before:60;id=short]]", timeout_seconds=0.3)


async def test_a_cancelled_request_ends_its_operation(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        task = asyncio.create_task(it.make("x [[emulator:latency:1;id=cancel]]"))
        while not emulator.calls():  # noqa: ASYNC110  # the other side of a socket has no event to wait for
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert it.seen.ended == 1
    assert it.seen.records[0].status_code == 499


async def test_the_floor_of_a_tenant_holds(emulator: Emulator) -> None:
    async with bench(emulator.url, policy=RequestPolicy(safety_floors=(Threshold.BLOCK_ONLY_HIGH,))) as it:
        low = await it.make("a", safety_level="OFF")
        high = await it.make("b", safety_level="OFF", floor=Threshold.BLOCK_LOW_AND_ABOVE)
    assert (low.request.safety.level, high.request.safety.level) == ("LOW", "HIGH")
    thresholds = [{row["threshold"] for row in call["body"]["safetySettings"]} for call in emulator.calls()]
    assert thresholds == [{"BLOCK_ONLY_HIGH"}, {"BLOCK_LOW_AND_ABOVE"}]


@pytest.mark.parametrize(("wanted", "magic"), [("png", b"\x89PNG"), ("webp", b"RIFF"), ("jpeg", b"\xff\xd8")])
async def test_the_format_asked_for_is_the_format_given(emulator: Emulator, wanted: str, magic: bytes) -> None:
    async with bench(emulator.url) as it:
        result = await it.make("format", output_format=wanted)
    picture = result.images[0].picture
    assert raw_bytes(picture).startswith(magic)
    assert picture.format == wanted
    assert (picture.raw is None) == (wanted == "jpeg"), "what Gemini made already passes untouched"


async def test_compression_is_obeyed_also_in_geminis_own_format(emulator: Emulator) -> None:
    async with bench(emulator.url) as it:
        small = await it.make("size", output_format="jpeg", output_compression=10)
        large = await it.make("size", output_format="jpeg")
    assert len(raw_bytes(small.images[0].picture)) < len(raw_bytes(large.images[0].picture)) // 2


async def test_pictures_are_bounded_in_number_bytes_and_all_together(emulator: Emulator) -> None:
    picture = base64.b64encode(samples.encoded(samples.noise(200, 200))).decode()
    async with bench(emulator.url, max_request_bytes=200_000) as it:
        with pytest.raises(PayloadTooLargeError):
            await it.make("x", image=[picture] * 2)
        with pytest.raises(PayloadTooLargeError):
            await it.make("x" * 30_000, image=[base64.b64encode(samples.encoded(samples.noise(220, 200))).decode()])
        with pytest.raises(ImageError, match="at most 14"):
            await it.make("x", image=["%%%"] * 15)
        with pytest.raises(InvalidImageError, match="base64"):
            await it.make("x", image="%%%")
    assert emulator.calls() == []


async def test_a_listed_host_is_fetched(emulator: Emulator) -> None:
    """The picture behind the address goes upstream; a host that answers otherwise is a clear 400."""
    async with bench(emulator.url) as it:
        with pytest.raises(InvalidImageError, match="refused"):
            await it.make("x", image=f"{emulator.url}/nothing.png")
        with pytest.raises(InvalidImageError):
            await it.make("x", image=f"{emulator.url}/emulator/switches")
        with pytest.raises(ImageError, match="not allowed"):
            await it.make("x", image="http://localhost:1/a.png")


async def test_an_answer_above_the_bound_is_refused_once(emulator: Emulator) -> None:
    async with bench(emulator.url, max_response_bytes=10_000) as it:
        with pytest.raises(UpstreamFailureError, match="larger"):
            await it.make()
    assert len(emulator.calls()) == 1


async def test_no_account_is_a_configuration_error(emulator: Emulator) -> None:
    async with bench(emulator.url, keys=()) as it:
        with pytest.raises(ConfigurationError, match="GEMINI_API_KEY"):
            await it.make()


class Broken(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError("secret detail")


async def test_a_defect_of_ours_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with bench("http://test", http=httpx.AsyncClient(transport=Broken())) as it:
        with pytest.raises(InternalError) as failed:
            await it.make()
    assert "secret" not in failed.value.message
    assert "ZeroDivisionError" in caplog.text, "the operator's log has the traceback"


async def test_rejections_are_observed(emulator: Emulator) -> None:
    """A wish that cannot be resolved ends its operation with the error and without a call."""
    fields: dict[str, Any] = {"size": "nonsense"}
    async with bench(emulator.url) as it:
        with pytest.raises(ImageError):
            await it.make("x", **fields)
    (record,) = it.seen.records
    assert (record.status_code, record.error and record.error.code) == (400, "IMG_INVALID_PARAMETER")
    assert it.seen.ended == 1


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF"])
async def test_other_kinds_of_pictures_are_made_over(emulator: Emulator, image_format: str) -> None:
    """Gemini refuses them, so they go upstream as PNG."""
    picture = base64.b64encode(samples.encoded(samples.noise(31, 17), image_format)).decode()
    async with bench(emulator.url) as it:
        await it.make("x", image=picture)
    (call,) = emulator.calls()
    sent = call["body"]["contents"][0]["parts"][1]["inlineData"]
    assert (sent["mimeType"], sent["data"]["width"], sent["data"]["height"]) == ("image/png", 31, 17)


async def test_a_closed_client_shows_no_accounts() -> None:
    async with bench("http://gemini.test") as it:
        assert [state.label for state in it.client.account_states()] == ["first"]
    assert it.client.account_states() == ()
