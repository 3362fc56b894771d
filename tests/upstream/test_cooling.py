from __future__ import annotations

import sys
import weakref
import zoneinfo
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import (
    ConfigurationError,
    ImageError,
    ModelNotFoundError,
    QuotaExhaustedError,
    RateLimitedError,
    ServiceUnavailableError,
    UpstreamAuthError,
    leaves,
)
from sfumato.upstream.cooling import ALL_MODELS, CoolingTable, Notice, cooling_class, seconds_to_reset
from sfumato.upstream.minutes import MinuteWindow
from sfumato.wire.gemini_errors import parse_error

PRO = "gemini-3-pro-image"
WINTER = datetime(2026, 1, 15, 20, 0, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def table(clock: Clock, wall: float = WINTER, **options: float) -> CoolingTable:
    return CoolingTable(clock=clock, wall_clock=lambda: wall, **options)


def rest(told: CoolingTable, model: str = PRO) -> float | None:
    obstacle = told.obstacle("id", model)
    return None if obstacle is None else round(obstacle.seconds_left, 6)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RateLimitedError("m", reason="per_minute", retry_after=41.25), 41.25),
        (RateLimitedError("m", reason="per_minute", retry_after=0.0), 1.0),
        (RateLimitedError("m", reason="per_minute", retry_after=1e9), 600.0),
        (RateLimitedError("m", reason="per_minute", retry_after=float("nan")), 600.0),
        (RateLimitedError("m", reason="per_minute"), 15.0),
        (RateLimitedError("m"), 15.0),
        (RateLimitedError("m", reason="shared_capacity"), 2.0),
        (RateLimitedError("m", reason="shared_capacity", retry_after=9.0), 9.0),
        # OmniRoute #7940: a body that named PerDay carried 26 s.
        (QuotaExhaustedError("m", reason="per_day", retry_after=26.0), 26.0),
        (QuotaExhaustedError("m", reason="per_day", retry_after=6776.0), 6776.0),
        (QuotaExhaustedError("m", reason="per_day", retry_after=1e12), 86_400.0),
        (QuotaExhaustedError("m", reason="per_day"), 12 * 3600.0),
        (QuotaExhaustedError("m", reason="billing"), 600.0),
        (ModelNotFoundError("m", reason="unavailable"), 600.0),
        (ConfigurationError("m", reason="unavailable"), 600.0),
        (UpstreamAuthError("m"), 600.0),
        # Credentials that may be on their way.
        (UpstreamAuthError("m", retry_after=30.0), 30.0),
        (UpstreamAuthError("m", retry_after=1e9), 600.0),
    ],
)
def test_how_long_each_class_rests(error: ImageError, seconds: float) -> None:
    told = table(Clock())
    notice = told.refuse("id", PRO, error)
    assert notice is not None
    assert notice.seconds == rest(told) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error":{"message":"Quota, limit: 5","details":[{"retryDelay":"9s"}]}}', "per_minute"),
        (
            b'{"error":{"details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel"}]}]}}',
            "per_day",
        ),
        (b'{"error":{"message":"Your prepayment credits are depleted."}}', "billing"),
        (b'{"error":{"message":"Resource has been exhausted (e.g. check quota)."}}', "shared_capacity"),
    ],
)
def test_the_classes_are_those_of_googles_answers(body: bytes, reason: str) -> None:
    assert cooling_class(parse_error(429, body)) == reason


def test_a_model_that_an_account_lacks_is_a_class_of_its_own() -> None:
    location = b'{"error":{"status":"FAILED_PRECONDITION","message":"User location is not supported for the API use."}}'
    assert cooling_class(parse_error(400, location)) == cooling_class(parse_error(404, b"{}")) == "unavailable"


def test_only_refusals_say_something_of_an_account() -> None:
    known = {leaf for leaf in leaves() if cooling_class(leaf("m")) is not None}
    assert known == {RateLimitedError, QuotaExhaustedError, UpstreamAuthError}


@pytest.mark.parametrize(
    ("reason", "rests"),
    [("shared_capacity", [2, 4, 8, 16, 32, 60, 60]), ("per_minute", [15, 30, 60, 60, 60, 60, 60])],
)
def test_a_rest_that_was_too_short_is_followed_by_a_longer_one(reason: str, rests: list[float]) -> None:
    clock = Clock()
    told = table(clock)
    seen = []
    for _ in rests:
        # The calls of one wave are refused together, and that is one strike.
        for _ in range(10):
            told.refuse("id", PRO, RateLimitedError("m", reason=reason))
        seen.append(rest(told))
        clock.now += seen[-1] or 0.0
    assert seen == rests
    told.succeed("id", PRO)
    told.refuse("id", PRO, RateLimitedError("m", reason=reason))
    assert rest(told) == rests[0]


def test_strikes_are_forgotten_after_a_long_quiet_time() -> None:
    clock = Clock()
    told = table(clock)
    for pause in (2.0, 4.0 + 601.0, 0.0):
        told.refuse("id", PRO, RateLimitedError("m", reason="shared_capacity"))
        clock.now += pause
    assert rest(told) == 2.0


def test_a_shorter_refusal_does_not_shorten_a_rest() -> None:
    told = table(Clock())
    told.refuse("id", PRO, QuotaExhaustedError("m", reason="per_day", retry_after=5000))
    assert told.refuse("id", PRO, RateLimitedError("m", reason="per_minute", retry_after=20)) is None
    obstacle = told.obstacle("id", PRO)
    assert obstacle is not None
    assert (obstacle.reason, obstacle.seconds_left) == ("per_day", 5000)


def test_the_cap_holds_for_rate_limits_and_not_for_the_day() -> None:
    told = table(Clock(), max_cooling_seconds=30.0)
    told.refuse("id", PRO, RateLimitedError("m", retry_after=100))
    assert rest(told) == 30.0
    told.refuse("id", PRO, QuotaExhaustedError("m", retry_after=100))
    assert rest(told) == 100.0


def test_other_errors_are_nothing_new() -> None:
    told = table(Clock())
    assert told.refuse("id", PRO, ServiceUnavailableError("m", retry_after=9)) is None
    assert rest(told) is None


@pytest.mark.parametrize(
    "error", [QuotaExhaustedError("m", reason="billing"), ModelNotFoundError("m", reason="unavailable")]
)
def test_what_no_time_is_known_of_is_tried_by_one_request_at_a_time(error: ImageError) -> None:
    clock = Clock()
    told = table(clock)
    told.refuse("id", PRO, error)
    clock.now += 600
    assert rest(told) is None
    told.begin("id", PRO)
    assert rest(told) == 60.0
    told.refuse("id", PRO, error)
    assert rest(told) == 600.0
    clock.now += 600
    told.begin("id", PRO)
    assert not told.succeed("id", PRO)
    assert rest(told) is None


def test_a_probe_of_a_parked_account_may_meet_a_rate_limit() -> None:
    clock = Clock()
    told = table(clock)
    told.refuse("id", PRO, UpstreamAuthError("m"))
    clock.now += 600
    told.begin("id", PRO)
    told.refuse("id", PRO, RateLimitedError("m", retry_after=30))
    assert told.parked("id") is not None
    assert rest(told) == 60.0


@pytest.mark.parametrize("error", [UpstreamAuthError("m"), QuotaExhaustedError("m", reason="billing")])
def test_a_probe_that_learned_nothing_frees_the_next_one_at_once(error: ImageError) -> None:
    clock = Clock()
    told = table(clock)
    told.refuse("id", PRO, error)
    # A call that began before is no probe.
    told.refuse("id", PRO, ServiceUnavailableError("m"))
    assert rest(told) == 600.0
    clock.now += 600
    told.begin("id", PRO)
    told.refuse("id", "another-model", ServiceUnavailableError("m"))
    told.refuse("id", PRO, ServiceUnavailableError("m"))
    assert rest(told) is None
    told.begin("id", PRO)
    assert rest(told) == 60.0
    told.refuse("id", PRO, error)
    assert rest(told) == 600.0


def test_what_others_know_holds_unless_more_is_known_here() -> None:
    clock = Clock()
    told = table(clock)
    told.learn([Notice("id", PRO, "per_minute", 20.0), Notice("id", ALL_MODELS, "credentials", 5.0)])
    assert rest(told, "another-model") == 5.0
    clock.now += 5
    assert rest(told) == 15.0
    told.learn([Notice("id", PRO, "shared_capacity", 3.0)])
    assert rest(told) == 15.0
    told.learn([Notice("id", PRO, "per_day", 1e12)])
    assert rest(told) == 86_400.0
    assert [row.reason for row in told.cooling("id")] == ["per_day"]


@pytest.mark.parametrize(
    ("moment", "hours"),
    [
        (datetime(2026, 1, 15, 7, 59, tzinfo=UTC), 1 / 60),
        (datetime(2026, 1, 15, 8, 0, tzinfo=UTC), 24),
        (datetime(2026, 7, 15, 6, 0, tzinfo=UTC), 1),
        # The clocks go forward on 2026-03-08 and back on 2026-11-01.
        (datetime(2026, 3, 8, 8, 0, tzinfo=UTC), 23),
        (datetime(2026, 11, 1, 7, 0, tzinfo=UTC), 25),
    ],
)
def test_the_day_ends_at_midnight_in_pacific_time(moment: datetime, hours: float) -> None:
    assert seconds_to_reset(moment.timestamp()) == pytest.approx(hours * 3600)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  # hypothesis wants naive bounds
def test_the_next_reset_is_at_most_a_day_away(moment: datetime) -> None:
    assert 0 < seconds_to_reset(moment.timestamp()) <= 25 * 3600


def test_without_time_zones_the_reset_is_late_and_never_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    january, july = (datetime(2026, month, 15, 12, tzinfo=UTC).timestamp() for month in (1, 7))
    right = [seconds_to_reset(at) for at in (january, july)]
    before = zoneinfo.TZPATH
    # The package that stands in for the system's files, where it is installed.
    monkeypatch.setitem(sys.modules, "tzdata", None)
    zoneinfo.reset_tzpath([str(tmp_path)])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        late = [seconds_to_reset(at) for at in (january, july)]
    finally:
        zoneinfo.reset_tzpath(before)
        zoneinfo.ZoneInfo.clear_cache()
    assert late == [right[0], right[1] + 3600]


@given(st.lists(st.floats(0, 90), max_size=40), st.integers(1, 5))
def test_a_window_never_holds_more_than_its_limit_in_any_minute(pauses: list[float], limit: int) -> None:
    clock = Clock(0.0)
    window = MinuteWindow(clock)
    calls: list[float] = []
    for pause in pauses:
        clock.now += pause
        wait = window.seconds_until_free(limit)
        assert 0 <= wait <= 60
        assert (wait > 0) == (len(window) >= limit)
        if wait == 0:
            window.add()
            calls.append(clock.now)
    for at in calls:
        # A call of exactly a minute ago is over; sums of floats come close to exactly.
        assert sum(at - 60 + 1e-6 < other <= at for other in calls) <= limit


def test_a_window_forgets_what_is_over_though_nobody_asks() -> None:
    class Moment(float):
        pass

    clock = Clock(0.0)
    moments: weakref.WeakSet[Moment] = weakref.WeakSet()

    def now() -> float:
        moment = Moment(clock.now)
        moments.add(moment)
        return moment

    window = MinuteWindow(now)
    for _ in range(1000):
        clock.now += 1
        window.add()
    assert len(moments) == 60
