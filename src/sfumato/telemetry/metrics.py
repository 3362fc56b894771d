"""The metrics of requests, on one meter provider. It only uses OpenTelemetry's API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter

from sfumato.errors import ImageError, leaves
from sfumato.images.models import FAMILIES
from sfumato.telemetry import names
from sfumato.telemetry.names import Instrument
from sfumato.telemetry.observer import Charge, OperationRecord, Step
from sfumato.telemetry.vitals import STATES, Watch

_FAMILY_NAMES = tuple(sorted((family.name for family in FAMILIES), key=len, reverse=True))
_ERRORS = {error.code: error for error in leaves()}
_CANCELLED = "499"


class Metrics:
    """The instruments of `sfumato.telemetry.names` on one meter provider.

    Args:
        meter_provider: OpenTelemetry's global one by default, whoever installs it and whenever.
        watch: What gauges show.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, *, watch: Watch) -> None:
        self._watch = watch
        meter = get_meter(names.SCOPE, meter_provider=meter_provider, schema_url=names.SCHEMA_URL)
        self._duration = _histogram(meter, names.DURATION)
        self._tokens = _histogram(meter, names.TOKEN_USAGE)
        self._lookup_duration = _histogram(meter, names.CACHE_LOOKUP_DURATION)
        self._requests = _counter(meter, names.REQUESTS)
        self._errors = _counter(meter, names.ERRORS)
        self._retries = _counter(meter, names.RETRY_COUNT)
        self._images = _counter(meter, names.IMAGE_COUNT)
        self._cost = _counter(meter, names.COST)
        self._account_requests = _counter(meter, names.ACCOUNT_REQUESTS)
        self._savings = _counter(meter, names.CACHE_SAVINGS)
        self._active = meter.create_up_down_counter(
            names.ACTIVE.name, unit=names.ACTIVE.unit, description=names.ACTIVE.description
        )
        self._observe(meter)

    def begin(self, operation: str) -> None:
        """Count a request that begins."""
        self._active.add(1, {names.OPERATION: operation})

    def leave(self, step: Step, seconds: float) -> None:
        """Count a step that is over."""
        if step.name == "cache.lookup" and step.outcome in ("hit", "miss"):
            self._lookup_duration.record(seconds * 1000, {names.CACHE_RESULT: step.outcome})
        elif step.name == "attempt":
            abandoned = step.outcome in (None, names.ABANDONED_OUTCOME)
            ended = step.error.error_type if step.error else names.ABANDONED_OUTCOME if abandoned else names.NONE
            self._account_requests.add(1, {names.ACCOUNT: step.account or names.OTHER, names.ERROR_KIND: ended})

    def retry(self, error: ImageError) -> None:
        """Count an attempt that is followed by another."""
        self._retries.add(1, {names.ERROR_TYPE: error.code})

    def charge(self, charge: Charge, *, tier: str | None, tenant: str) -> None:
        """Count what was paid."""
        labels = {names.ACCOUNT: charge.account, names.TIER: tier or names.NONE, names.TENANT: tenant}
        self._cost.add(charge.cost_usd, labels)

    def end(self, record: OperationRecord, *, operation: str, provider: str, context: Context) -> None:
        """Count a request that ended.

        Args:
            record: All that is known of it.
            operation: What it was begun as.
            provider: Whose model it was.
            context: Its own span's, for exemplars.
        """
        model = family_of(record) or names.OTHER
        self._active.add(-1, {names.OPERATION: operation})
        self._requests.add(
            1, {names.REQUEST_MODEL: model, names.OPERATION: record.operation, names.OUTCOME: outcome_of(record)}
        )
        common = {
            names.OPERATION_NAME: names.GENERATE_CONTENT,
            names.PROVIDER_NAME: provider,
            names.REQUEST_MODEL: model,
        }
        error = error_type_of(record)
        failed = {names.ERROR_TYPE: error} if error else {}
        self._duration.record(
            record.duration_seconds, {**common, names.CACHE: record.cache or names.NONE, **failed}, context=context
        )
        self._count_errors(record)
        if record.images:
            self._images.add(record.images, {names.REQUEST_MODEL: model, **shape_of(record)})
        if record.savings_usd > 0:
            self._savings.add(record.savings_usd, {names.REQUEST_MODEL: model})
        usage = record.fresh_usage
        if usage.total_tokens:
            self._tokens.record(usage.input_tokens, {**common, names.TOKEN_TYPE: "input"}, context=context)
            self._tokens.record(usage.output_tokens, {**common, names.TOKEN_TYPE: "output"}, context=context)

    def _count_errors(self, record: OperationRecord) -> None:
        if record.error is not None:
            self._errors.add(1, _error_labels(type(record.error), "request"))
        for code in record.failure_codes:
            self._errors.add(1, _error_labels(_ERRORS[code], "picture"))

    def _observe(self, meter: Meter) -> None:
        watch = self._watch

        def accounts(_: CallbackOptions) -> Iterable[Observation]:
            states = watch.states()
            # Without accounts there is nothing to say; with some, every state is told, so that alerts see zeros.
            return [Observation(states[state], {names.ACCOUNT_STATE: state}) for state in STATES if states]

        def lookups(_: CallbackOptions) -> Iterable[Observation]:
            counts = watch.counts()
            yield Observation(counts.hits, {names.CACHE_RESULT: "hit"})
            yield Observation(counts.lookups - counts.hits, {names.CACHE_RESULT: "miss"})

        def hit_rate(_: CallbackOptions) -> Iterable[Observation]:
            counts = watch.counts()
            return [Observation(counts.hits / counts.lookups)] if counts.lookups else []

        def size(_: CallbackOptions) -> Iterable[Observation]:
            sizes = [cache.size_bytes or 0 for cache in watch.sizes()]
            # Clients of one process share a persistent store: its size is not to be added up.
            return [Observation(max(sizes))] if sizes else []

        def capacity(_: CallbackOptions) -> Iterable[Observation]:
            shares = [(cache.size_bytes or 0) / cache.capacity_bytes for cache in watch.sizes() if cache.capacity_bytes]
            return [Observation(max(shares))] if shares else []

        def evictions(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(watch.counts().evictions)]

        def faults(_: CallbackOptions) -> Iterable[Observation]:
            for (operation, reason), count in watch.counts().faults.items():
                yield Observation(count, {names.CACHE_OPERATION: operation, names.CACHE_REASON: reason})

        for instrument, callback in (
            (names.ACCOUNTS, accounts),
            (names.CACHE_LOOKUPS, lookups),
            (names.CACHE_HIT_RATE, hit_rate),
            (names.CACHE_SIZE, size),
            (names.CACHE_CAPACITY, capacity),
            (names.CACHE_EVICTIONS, evictions),
            (names.CACHE_FAULTS, faults),
        ):
            counts_up = instrument.kind == "observable_counter"
            create = meter.create_observable_counter if counts_up else meter.create_observable_gauge
            create(instrument.name, [callback], unit=instrument.unit, description=instrument.description)


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


def shape_of(record: OperationRecord) -> Mapping[str, str]:
    """Return the labels of a request's pictures."""
    return {names.TIER: record.resolution or names.NONE, names.ASPECT_RATIO: record.aspect_ratio or names.AUTO}


def _error_labels(error: type[ImageError], scope: str) -> dict[str, str]:
    return {
        names.ERROR_TYPE: error.code,
        names.ERROR_KIND: error.error_type,
        names.ERROR_CATEGORY: error.category,
        names.ERROR_SCOPE: scope,
    }


def _counter(meter: Meter, instrument: Instrument) -> Any:
    return meter.create_counter(instrument.name, unit=instrument.unit, description=instrument.description)


def _histogram(meter: Meter, instrument: Instrument) -> Any:
    return meter.create_histogram(
        instrument.name,
        unit=instrument.unit,
        description=instrument.description,
        explicit_bucket_boundaries_advisory=instrument.buckets,
    )
