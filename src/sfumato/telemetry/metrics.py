"""The metrics of requests. It only uses OpenTelemetry's API."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from opentelemetry.context import Context, create_key, set_value
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter

from sfumato.errors import ImageError, leaves
from sfumato.images.models import FAMILIES
from sfumato.telemetry import names
from sfumato.telemetry.gauges import gauges
from sfumato.telemetry.names import Instrument
from sfumato.telemetry.observer import Charge, OperationRecord, Step
from sfumato.telemetry.vitals import Watch

_FAMILY_NAMES = tuple(sorted((family.name for family in FAMILIES), key=len, reverse=True))
_ERRORS = {error.code: error for error in leaves()}
_CANCELLED = "499"
_HIT = "hit"
_BACKLOG = 100
# An empty context would stand for the current one, which is of whoever comes by when the backlog is recorded.
_NOBODY = set_value(create_key("sfumato-nobody"), True, Context())  # noqa: FBT003  # a value
_LOOKUPS: Mapping[str | None, Mapping[str, str]] = {
    outcome: {names.CACHE_RESULT: outcome} for outcome in (_HIT, "miss")
}


class LazyCounter:
    """A counter that is read when somebody asks: adding to it costs a tenth of adding to one of the SDK's.

    Args:
        instrument: Its labels, in order, are the names of the values that come with each count.
    """

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, value: float, *labels: str) -> None:
        """Add *value*; event loops on several threads may do so."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + value

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        """Return every value with its labels."""
        with self._lock:
            values = list(self._values.items())
        return [Observation(value, dict(zip(self.instrument.labels, labels, strict=True))) for labels, value in values]


class Backlog:
    """Measurements of what takes less than a millisecond, recorded together: alone each would cost thrice as much.

    They have no exemplars.

    Args:
        record: Records one: a histogram's name, a value, its labels.
    """

    def __init__(self, record: Callable[[str, float, Mapping[str, str]], None]) -> None:
        self._record = record
        self._waiting: deque[tuple[str, float, Mapping[str, str]]] = deque()

    def add(self, histogram: str, value: float, labels: Mapping[str, str]) -> None:
        """Add a measurement; event loops on several threads may do so."""
        self._waiting.append((histogram, value, labels))
        if len(self._waiting) >= _BACKLOG:
            self.clear()

    def clear(self) -> None:
        """Record what is there."""
        while True:
            try:
                waiting = self._waiting.popleft()
            except IndexError:
                return
            self._record(*waiting)

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        """Record what is there, for somebody looks; it is nothing to observe by itself."""
        self.clear()
        return ()


class Metrics:
    """The instruments of `sfumato.telemetry.names`, shown on any number of meter providers.

    Args:
        meter_providers: Where; None stands for OpenTelemetry's global one, whoever installs it and whenever.
    """

    def __init__(self, *meter_providers: MeterProvider | None) -> None:
        self.watch = Watch()
        self._requests = LazyCounter(names.REQUESTS)
        self._active = LazyCounter(names.ACTIVE)
        self._errors = LazyCounter(names.ERRORS)
        self._retries = LazyCounter(names.RETRY_COUNT)
        self._images = LazyCounter(names.IMAGE_COUNT)
        self._cost = LazyCounter(names.COST)
        self._account_requests = LazyCounter(names.ACCOUNT_REQUESTS)
        self._savings = LazyCounter(names.CACHE_SAVINGS)
        self._backlog = Backlog(self._record)
        self._shown: list[tuple[MeterProvider | None, _Histograms]] = []
        for meter_provider in meter_providers:
            self.show(meter_provider)

    def show(self, meter_provider: MeterProvider | None) -> None:
        """Show everything on *meter_provider* too; twice is once. Durations begin there and then, counts do not."""
        if any(shown is meter_provider for shown, _ in self._shown):
            return
        self._backlog.clear()
        meter = get_meter(names.SCOPE, meter_provider=meter_provider, schema_url=names.SCHEMA_URL)
        create: dict[str, Callable[..., object]] = {
            "observable_counter": meter.create_observable_counter,
            "observable_up_down_counter": meter.create_observable_up_down_counter,
            "observable_gauge": meter.create_observable_gauge,
        }
        tallies = [tally for tally in vars(self).values() if isinstance(tally, LazyCounter)]
        for instrument, callback in (*((tally.instrument, tally.observe) for tally in tallies), *gauges(self.watch)):
            name, unit, description = instrument.name, instrument.unit, instrument.description
            # Observables are asked before histograms are read.
            callbacks = [self._backlog.observe, callback] if instrument is names.REQUESTS else [callback]
            create[instrument.kind](name, callbacks, unit=unit, description=description)
        histograms = _Histograms(*(_histogram(meter, instrument) for instrument in _HISTOGRAMS))
        self._shown.append((meter_provider, histograms))

    def begin(self, operation: str) -> None:
        """Count a request that begins."""
        self._active.add(1, operation)

    def leave(self, step: Step, seconds: float) -> None:
        """Count a step that is over."""
        if step.name == "cache.lookup" and step.outcome in _LOOKUPS:
            self._backlog.add("lookup", seconds * 1000, _LOOKUPS[step.outcome])
        elif step.name == "attempt":
            abandoned = step.outcome in (None, names.ABANDONED_OUTCOME)
            ended = step.error.error_type if step.error else names.ABANDONED_OUTCOME if abandoned else names.NONE
            self._account_requests.add(1, step.account or names.OTHER, ended)

    def retry(self, error: ImageError) -> None:
        """Count an attempt that is followed by another."""
        self._retries.add(1, error.code)

    def charge(self, charge: Charge, *, tier: str | None, tenant: str) -> None:
        """Count what was paid."""
        self._cost.add(charge.cost_usd, charge.account, tier or names.NONE, tenant)

    def end(self, record: OperationRecord, *, operation: str, provider: str, context: Context) -> None:
        """Count a request that ended.

        Args:
            record: All that is known of it.
            operation: What it was begun as.
            provider: Whose model it was.
            context: Its own span's, for exemplars.
        """
        model = family_of(record) or names.OTHER
        self._active.add(-1, operation)
        self._requests.add(1, model, record.operation, outcome_of(record))
        if record.error is not None:
            self._count_error(type(record.error), "request")
        for code in record.failure_codes:
            self._count_error(_ERRORS[code], "picture")
        if record.images:
            self._images.add(record.images, model, record.resolution or names.NONE, record.aspect_ratio or names.AUTO)
        if record.savings_usd > 0:
            self._savings.add(record.savings_usd, model)
        self._measure(record, model, provider, context)

    def _measure(self, record: OperationRecord, model: str, provider: str, context: Context) -> None:
        error, usage = error_type_of(record), record.fresh_usage
        if record.cache == _HIT and error is None:
            self._backlog.add("duration", record.duration_seconds, _hit(model, provider))
            return
        common = _labels(model, provider)
        took = {**common, names.CACHE: record.cache or names.NONE, **({names.ERROR_TYPE: error} if error else {})}
        for _, histograms in self._shown:
            histograms.duration.record(record.duration_seconds, took, context=context)
            if usage.total_tokens:
                histograms.tokens.record(usage.input_tokens, {**common, names.TOKEN_TYPE: "input"}, context=context)
                histograms.tokens.record(usage.output_tokens, {**common, names.TOKEN_TYPE: "output"}, context=context)

    def _record(self, histogram: str, value: float, labels: Mapping[str, str]) -> None:
        for _, histograms in self._shown:
            getattr(histograms, histogram).record(value, labels, context=_NOBODY)

    def _count_error(self, error: type[ImageError], scope: str) -> None:
        self._errors.add(1, error.code, error.error_type, error.category, scope)


class _Histograms(NamedTuple):
    duration: Histogram
    tokens: Histogram
    lookup: Histogram


_HISTOGRAMS = (names.DURATION, names.TOKEN_USAGE, names.CACHE_LOOKUP_DURATION)


@functools.cache
def _hit(model: str, provider: str) -> Mapping[str, str]:
    return _labels(model, provider) | {names.CACHE: _HIT}


def _labels(model: str, provider: str) -> dict[str, str]:
    return {
        names.OPERATION_NAME: names.GENERATE_CONTENT,
        names.PROVIDER_NAME: provider,
        names.REQUEST_MODEL: model,
    }


def family_of(record: OperationRecord) -> str | None:
    """Return the model id that Gemini knows, None for a name that is not served."""
    if record.family is not None:
        return record.family
    name = record.model or ""
    return next((family for family in _FAMILY_NAMES if name == family or name.startswith(f"{family}-")), None)


def outcome_of(record: OperationRecord) -> str:
    """Return the word for how a request ended."""
    if record.abandoned or record.status_code == int(_CANCELLED):
        return names.ABANDONED_OUTCOME
    if record.error is not None:
        return "error"
    return "partial" if record.failure_codes else "ok"


def error_type_of(record: OperationRecord) -> str | None:
    """Return ``error.type``, None for a request that succeeded."""
    if record.error is not None:
        return record.error.code
    return _CANCELLED if record.status_code == int(_CANCELLED) else None


def _histogram(meter: Meter, instrument: Instrument) -> Histogram:
    return meter.create_histogram(
        instrument.name,
        unit=instrument.unit,
        description=instrument.description,
        explicit_bucket_boundaries_advisory=instrument.buckets,
    )
