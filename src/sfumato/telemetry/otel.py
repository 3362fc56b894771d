"""`OtelObserver`: requests as OpenTelemetry's spans and metrics. It only uses the API, sdk.py wires."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Token
from types import TracebackType

from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, Span, TracerProvider, get_tracer

from sfumato.errors import ImageError
from sfumato.settings import Settings
from sfumato.telemetry import names
from sfumato.telemetry.exposition import Exposition, process_exposition
from sfumato.telemetry.logs import RequestLog
from sfumato.telemetry.metrics import Metrics
from sfumato.telemetry.observer import (
    NullOperation,
    Observer,
    ObserverGroup,
    Operation,
    OperationRecord,
    Step,
    private_hash,
)
from sfumato.telemetry.spans import OperationSpan
from sfumato.telemetry.variables import PROVIDERS, blamed
from sfumato.telemetry.vitals import Vitals

MAX_TENANTS = 20
_log = logging.getLogger("sfumato")


class OtelObserver:
    """Show each request as a span with its steps beneath, and count it. No fault in here reaches a request.

    Args:
        tracer_provider: OpenTelemetry's global one by default, whoever installs it and whenever.
        meter_provider: The same for metrics.
        exposition: Metrics are shown there, too.
        hash_salt: Keys the hashes of tenants.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        exposition: Exposition | None = None,
        hash_salt: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tracer = get_tracer(names.SCOPE, tracer_provider=tracer_provider, schema_url=names.SCHEMA_URL)
        self._metrics = _process_metrics() if meter_provider is None else _metrics_of(meter_provider)
        if exposition is not None:
            self._metrics.show(exposition.provider)
        self._tenants = TenantLabels(hash_salt, limit=MAX_TENANTS)
        self._clock = clock

    def begin(self, record: OperationRecord) -> Operation:
        """Begin the span of a request, within the caller's or the ambient one."""
        with _UNNOTICED:
            return _OtelOperation(
                OperationSpan(self._tracer, record), record, self._metrics, self._tenants, self._clock
            )
        return NullOperation()

    def watch(self, vitals: Vitals) -> None:
        """Show *vitals* in gauges as long as somebody else keeps it."""
        with _UNNOTICED:
            self._metrics.watch.add(vitals)


def create_observer(settings: Settings) -> Observer:
    """Create who sees requests by default: the request log, traces and metrics.

    Where OpenTelemetry does not understand its variables, it is the log and our own page of metrics.
    """
    exposition = _exposition(settings)
    salt = settings.hash_salt.get_secret_value() if settings.hash_salt else None
    try:
        otel = OtelObserver(exposition=exposition, hash_salt=salt)
    except Exception as error:  # noqa: BLE001  # a misspelled OTEL_ variable must not end the process
        why = blamed(error, *PROVIDERS)
        _log.warning("OpenTelemetry cannot be used (%s). No traces and metrics are sent.", why)
        tracers, meters = NoOpTracerProvider(), NoOpMeterProvider()
        otel = OtelObserver(tracer_provider=tracers, meter_provider=meters, exposition=exposition, hash_salt=salt)
    return ObserverGroup([RequestLog(), otel])


def _exposition(settings: Settings) -> Exposition | None:
    if settings.admin_key is None and not settings.metrics_public:
        return None
    try:
        return process_exposition()
    except Exception as error:  # noqa: BLE001  # the same
        why = blamed(error, "OTEL_METRICS_EXEMPLAR_FILTER")
        _log.warning("OpenTelemetry's SDK cannot be used (%s). The route of the metrics answers 501.", why)
        return None


class TenantLabels:
    """Hash tenants; as labels only so many of them have a series of their own.

    Args:
        salt: Keys the hashes.
        limit: How many, in the order in which they come.
    """

    def __init__(self, salt: str | None, *, limit: int) -> None:
        self._hash = functools.lru_cache(maxsize=1024)(functools.partial(private_hash, salt=salt))
        self._limit = limit
        self._known: set[str] = set()

    def hash(self, tenant: str | None) -> str:
        """Return the hash of *tenant*."""
        return self._hash(tenant) if tenant else names.NONE

    def label(self, hashed: str) -> str:
        """Return what stands for a hashed tenant on metrics."""
        if hashed == names.NONE or hashed in self._known:
            return hashed
        if len(self._known) >= self._limit:
            return names.OTHER
        self._known.add(hashed)
        return hashed


class _OtelOperation:
    def __init__(
        self,
        span: OperationSpan,
        record: OperationRecord,
        metrics: Metrics,
        tenants: TenantLabels,
        clock: Callable[[], float],
    ) -> None:
        self.span = span
        self.metrics = metrics
        self.clock = clock
        self._record = record
        self._tenants = tenants
        self._begun_as = record.operation
        self._charged = 0
        self._ended = False
        metrics.begin(self._begun_as)

    def step(self, step: Step) -> AbstractContextManager[None]:
        return _OtelStep(self, step)

    def retry(self, error: ImageError, *, attempt: int, delay_seconds: float) -> None:
        with _UNNOTICED:
            self.span.retry(error, attempt=attempt, delay_seconds=delay_seconds)
            self.metrics.retry(error)

    def end(self) -> None:
        record = self._record
        self._ended = True
        # Guarded each by itself: spans run into processors and exporters of others, counts do not.
        with _UNNOTICED:
            self.metrics.end(record, operation=self._begun_as, provider=self.span.provider, context=self.span.context)
        with _UNNOTICED:
            self._settle()
        with _UNNOTICED:
            self.span.end(tenant=self._tenants.hash(record.tenant))

    def leave(self, span: Span | None, step: Step, seconds: float) -> None:
        with _UNNOTICED:
            self.metrics.leave(step, seconds)
        if self._ended:
            # Pictures that nobody waited for any more are paid for, too.
            with _UNNOTICED:
                self._settle()
        if span is not None:
            with _UNNOTICED:
                self.span.end_step(span, step)

    def _settle(self) -> None:
        record = self._record
        new = record.charges[self._charged :]
        self._charged += len(new)
        if new:
            tenant = self._tenants.label(self._tenants.hash(record.tenant))
            for charge in new:
                self.metrics.charge(charge, tier=record.resolution, tenant=tenant)


class _OtelStep(AbstractContextManager[None]):
    __slots__ = ("_operation", "_span", "_started", "_step", "_token")

    def __init__(self, operation: _OtelOperation, step: Step) -> None:
        self._operation = operation
        self._step = step
        self._span: Span | None = None
        self._token: Token[Context] | None = None
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = self._operation.clock()
        with _UNNOTICED:
            self._span, context = self._operation.span.begin_step(self._step)
            self._token = attach(context)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _UNNOTICED:
            if self._token is not None:
                detach(self._token)
        if exc_type is not None and self._step.outcome is None:
            # Whoever did the work was cancelled, by a deadline or for want of somebody who waits.
            self._step.outcome = names.ABANDONED_OUTCOME
        self._operation.leave(self._span, self._step, self._operation.clock() - self._started)


# A provider's gauges and waiting durations are asked for by the first who registers them only.
_metrics_of = functools.lru_cache(maxsize=16)(Metrics)


@functools.cache
def _process_metrics() -> Metrics:
    # Runtimes of one process share the global provider, which knows each instrument once.
    return Metrics(None)


class _Unnoticed:
    """Keep the faults of telemetry from the request."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(exc, Exception):
            return False
        # Whoever looks must not decide what is answered.
        _log.error("Telemetry failed; the request goes on", exc_info=exc)
        return True


_UNNOTICED = _Unnoticed()
