"""What is known of each account and model: who must rest, why and until when. Pure, with the clocks given.

Rules of every row:

- A row is per account and model; refused credentials are one row for all models of the account ("parked").
- Several refusals of one wave are one strike: strikes grow only where a refusal follows the end of a rest.
- A row outlives its time, so that the next refusal knows the strikes; the first success after its time removes it.
- A success during its time proves nothing: that call began before the refusal.
- Parked accounts, those without billing and those without the model are tried by one request at a time, the others by
  whoever comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Literal, Protocol, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sfumato.errors import ImageError, QuotaExhaustedError, RateLimitedError, UpstreamAuthError
from sfumato.wire.gemini_errors import UNAVAILABLE

CoolingClass: TypeAlias = Literal["per_minute", "shared_capacity", "per_day", "billing", "unavailable", "credentials"]

ALL_MODELS = ""
PROBE_SECONDS = 600.0
MAX_COOLING_SECONDS = 600.0
_DAY_SECONDS = 86_400.0
_LEAST_SECONDS = 1.0
# Longer than most calls that are refused and shorter than most pictures; a probe that ends untold frees the next one.
_PROBE_PATIENCE_SECONDS = 60.0
# (first, last) of a doubling row, for refusals that name no time. A quota of a minute is whole again after a minute.
_GROWTH = {"per_minute": (15.0, 60.0), "shared_capacity": (2.0, 60.0)}
_PROBED = frozenset({"billing", "unavailable", "credentials"})


@dataclass(frozen=True, slots=True)
class Notice:
    """What one process tells the others.

    Attributes:
        identity: `Account.identity`.
        model: The model, `ALL_MODELS` for a parked account.
        reason: Why it rests.
        seconds: How long from now on.
    """

    identity: str
    model: str
    reason: CoolingClass
    seconds: float


class CoolingBoard(Protocol):
    """State shared by the processes that use the same accounts. Its faults are its own: no method raises."""

    async def read(self) -> Iterable[Notice]:
        """Return what is known now; never slowly."""
        ...

    async def publish(self, notice: Notice) -> None:
        """Tell the others."""
        ...


@dataclass(frozen=True, slots=True)
class CoolingRow:
    """One model that an account does not serve for a while.

    Attributes:
        model: The upstream model, `ALL_MODELS` for a parked account.
        reason: Why it rests.
        seconds_left: Until it is tried again.
    """

    model: str
    reason: CoolingClass
    seconds_left: float


@dataclass(slots=True)
class _Row:
    reason: CoolingClass
    until: float
    strikes: int = 1
    probing: bool = False


class CoolingTable:
    """Remember refusals and tell what they mean for the next call.

    Args:
        clock: Seconds that only grow.
        wall_clock: Unix seconds, for the day's end where quotas reset.
        max_cooling_seconds: The longest rest of a rate limit, whatever Google says.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        max_cooling_seconds: float = MAX_COOLING_SECONDS,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._max_seconds = max_cooling_seconds
        self._rows: dict[tuple[str, str], _Row] = {}

    def obstacle(self, identity: str, model: str) -> CoolingRow | None:
        """Return what keeps the account from serving *model* now, None when nothing does."""
        now = self._clock()
        for name in (ALL_MODELS, model):
            row = self._rows.get((identity, name))
            if row is not None and row.until > now:
                return CoolingRow(name, row.reason, row.until - now)
        return None

    def begin(self, identity: str, model: str) -> None:
        """Note that a call begins; where one at a time may try, the others keep away until it is over."""
        for name in (ALL_MODELS, model):
            row = self._rows.get((identity, name))
            if row is not None and row.reason in _PROBED:
                row.probing, row.until = True, self._clock() + _PROBE_PATIENCE_SECONDS

    def refuse(self, identity: str, model: str, error: ImageError) -> Notice | None:
        """Note that a call was refused.

        Returns:
            What is new, None where the error says nothing of the account or nothing that was not known.
        """
        reason = cooling_class(error)
        if reason is None:
            self._free(identity, model)
            return None
        name = ALL_MODELS if reason == "credentials" else model
        now, before = self._clock(), self._rows.get((identity, name))
        row = _Row(reason, now, self._strikes(before, now))
        seconds = self._seconds(row, error.upstream_delay)
        row.until = now + seconds
        if before is not None and not before.probing and before.until >= row.until:
            return None
        self._rows[identity, name] = row
        return Notice(identity, name, reason, seconds)

    def succeed(self, identity: str, model: str) -> bool:
        """Note that a picture was made; tell whether the account was parked until now."""
        now, unparked = self._clock(), False
        for name in (ALL_MODELS, model):
            row = self._rows.get((identity, name))
            if row is not None and (row.probing or row.until <= now):
                del self._rows[identity, name]
                unparked |= name == ALL_MODELS
        return unparked

    def learn(self, notices: Iterable[Notice]) -> None:
        """Take over what other processes know."""
        now = self._clock()
        for notice in notices:
            key = (notice.identity, notice.model)
            before, until = self._rows.get(key), now + min(notice.seconds, _DAY_SECONDS)
            if before is None or before.until < until:
                strikes = before.strikes if before else 1
                self._rows[key] = _Row(notice.reason, until, strikes)

    def parked(self, identity: str) -> CoolingRow | None:
        """Return the row of a parked account, also when its probe is due."""
        row = self._rows.get((identity, ALL_MODELS))
        return CoolingRow(ALL_MODELS, row.reason, max(0.0, row.until - self._clock())) if row else None

    def cooling(self, identity: str) -> tuple[CoolingRow, ...]:
        """List the models that the account does not serve now."""
        now = self._clock()
        return tuple(
            CoolingRow(model, row.reason, row.until - now)
            for (owner, model), row in sorted(self._rows.items())
            if owner == identity and model != ALL_MODELS and row.until > now
        )

    def _free(self, identity: str, model: str) -> None:
        """Let another call try at once, for the one that did learned nothing."""
        for name in (ALL_MODELS, model):
            row = self._rows.get((identity, name))
            if row is not None and row.probing:
                row.probing, row.until = False, self._clock()

    def _strikes(self, before: _Row | None, now: float) -> int:
        if before is None or now - before.until > self._max_seconds:
            return 1
        return before.strikes + (before.until <= now)

    def _seconds(self, row: _Row, told: float | None) -> float:
        """Return how long to rest: the quota's id names the class, RetryInfo the time (OmniRoute #7940)."""
        match row.reason:
            case "credentials" | "billing" | "unavailable":
                # Only credentials that may be on their way name a time.
                return PROBE_SECONDS if told is None else _bounded(told, PROBE_SECONDS)
            case "per_day":
                return _bounded(seconds_to_reset(self._wall_clock()) if told is None else told, _DAY_SECONDS)
            case "per_minute" | "shared_capacity":
                if told is None:
                    first, last = _GROWTH[row.reason]
                    # Beyond ten doublings every row is at its last step.
                    told = min(last, first * 2 ** min(row.strikes - 1, 10))
                return _bounded(told, self._max_seconds)


def cooling_class(error: ImageError) -> CoolingClass | None:
    """Return what an error says of the account it was met on, None when nothing."""
    match error:
        case UpstreamAuthError():
            return "credentials"
        case QuotaExhaustedError():
            return "billing" if error.reason == "billing" else "per_day"
        case RateLimitedError():
            return "shared_capacity" if error.reason == "shared_capacity" else "per_minute"
    return "unavailable" if error.reason == UNAVAILABLE else None


def why_exhausted(obstacles: Collection[CoolingRow]) -> ImageError | None:
    """Return the error of a model that no account serves now, given what keeps each of them from it.

    None where Google offers the model to none: then its own answer tells more.
    """
    resting = [row for row in obstacles if row.reason not in ("credentials", "unavailable")]
    if not resting and any(row.reason == "unavailable" for row in obstacles):
        return None
    if not resting:
        return UpstreamAuthError(
            "Google refuses every account of this installation. Tell the operator.", reason="all_parked"
        )
    # Nobody knows when a bill is paid.
    timed = [row for row in resting if row.reason != "billing"]
    soonest = min((row.seconds_left for row in timed), default=None)
    # Whole seconds, as the header has them: what a client is told does not depend on a millisecond.
    retry_after = None if soonest is None else float(math.ceil(soonest))
    limited = next((row for row in timed if row.reason != "per_day"), None)
    if limited is not None:
        return RateLimitedError(
            "Every account is at Gemini's rate limit. Send the request again after the time in 'Retry-After'.",
            reason=limited.reason,
            retry_after=retry_after,
        )
    return QuotaExhaustedError(
        "The quota of every account is used up for this model.",
        reason="per_day" if timed else "billing",
        retry_after=retry_after,
    )


def seconds_to_reset(unix_seconds: float) -> float:
    """Return the time until midnight in Pacific time, when day quotas reset (ai.google.dev, rate limits)."""
    zone = _pacific()
    now = datetime.fromtimestamp(unix_seconds, zone)
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), zone)
    return midnight.timestamp() - unix_seconds


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except (ZoneInfoNotFoundError, OSError):
        # A machine without time zones: right in winter, an hour late in summer, never early.
        return timezone(timedelta(hours=-8))


def _bounded(seconds: float, longest: float) -> float:
    return min(max(seconds, _LEAST_SECONDS), longest) if math.isfinite(seconds) else longest
