"""The wiring of OpenTelemetry's SDK, for edges that own a process; never for a library within somebody's.

The standard ``OTEL_*`` variables say whether and where to. OpenTelemetry's own classes read most of them; here stands
what they leave to whoever wires: which exporters, which protocol, and the name of the service.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from opentelemetry import metrics, trace

from sfumato.telemetry.providers import metrics_are_taken, traces_are_taken
from sfumato.telemetry.variables import PROVIDERS, blamed

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

SERVICE_NAME: Final = "sfumato"
Signal = Literal["TRACES", "METRICS"]
T = TypeVar("T")
_EXPORTERS: Final = ("otlp", "console", "none")
_PROTOCOLS: Final = ("http/protobuf", "grpc")
_SHUTDOWN_SECONDS: Final = 5.0
# What OpenTelemetry (1.45) does not name in its exceptions.
_SUSPECTS: Final[dict[Signal, tuple[str, ...]]] = {
    "TRACES": ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY"),
    "METRICS": ("OTEL_METRICS_EXEMPLAR_FILTER", "OTEL_METRIC_EXPORT_INTERVAL"),
}
_log = logging.getLogger("sfumato")


@dataclass(slots=True)
class _Process:
    """What this process wired."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    configured: bool = False
    providers: list[Any] = field(default_factory=list)


_process = _Process()


def configure() -> None:
    """Install OpenTelemetry's SDK where the ``OTEL_*`` variables ask for it and nobody installed one before.

    Traces and metrics are looked at one by one. Calling it again does nothing, from any thread. Call it as late as at
    the first request inside a program that may install providers of its own: whoever is first stays.
    """
    if _process.configured:
        return
    with _process.lock:
        if _process.configured:
            return
        if not is_disabled():
            _wire("TRACES", _installs_traces, traces_are_taken)
            _wire("METRICS", _installs_metrics, metrics_are_taken)
        if _process.providers:
            # In place of OpenTelemetry's own handlers, which wait for as long as its exporters try: half a minute.
            atexit.register(shutdown)
        _process.configured = True


def shutdown(timeout_seconds: float = _SHUTDOWN_SECONDS) -> None:
    """Send what is left and stop what `configure` installed; what nobody takes within the time is lost.

    Args:
        timeout_seconds: How long to wait at most. It happens by itself when the interpreter ends, but that it does not
            do under uvicorn, which ends with the signal that it was sent.
    """
    with _process.lock:
        providers, _process.providers = _process.providers, []
    _in_time([provider.shutdown for provider in providers], timeout_seconds)


def flush(timeout_seconds: float = _SHUTDOWN_SECONDS) -> None:
    """Send what is left of what `configure` installed, which goes on; what nobody takes within the time is lost.

    For the end of an app, after which its process may be killed or serve another.

    Args:
        timeout_seconds: How long to wait at most.
    """
    with _process.lock:
        providers = list(_process.providers)
    _in_time([provider.force_flush for provider in providers], timeout_seconds)


def is_disabled() -> bool:
    """Tell whether ``OTEL_SDK_DISABLED`` switches the SDK off, for everyone in this process."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def create_resource() -> Resource:
    """Return what stands for this process: of `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, else ``sfumato``."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # the SDK is loaded where it is wanted

    resource = Resource.create()
    if os.environ.keys() & {"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}:
        # Bytes that are no UTF-8 arrive as surrogates, which no exporter can write.
        told = {_readable(name): _readable(value) for name, value in resource.attributes.items()}
        resource = Resource(told, resource.schema_url)
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(
            Resource({"service.name": SERVICE_NAME, "service.version": importlib.metadata.version("sfumato")})
        )
    if "service.instance.id" not in resource.attributes:
        # Workers of one host send series of the same names: something must tell them apart.
        resource = resource.merge(Resource({"service.instance.id": str(uuid.uuid4())}))
    return resource


def _readable(value: T) -> T:
    return cast("T", value.encode(errors="replace").decode()) if isinstance(value, str) else value


def _in_time(endings: list[Callable[[], Any]], timeout_seconds: float) -> None:
    # An exporter that waits for a collector cannot be interrupted, but be left behind.
    threads = [threading.Thread(target=ending, daemon=True) for ending in endings]
    until = time.monotonic() + timeout_seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _wire(signal: Signal, install: Callable[[list[Any]], Any], is_taken: Callable[[], bool]) -> None:
    asked = _asked(signal)
    if not asked:
        return
    try:
        if is_taken():
            _log.info("OpenTelemetry %s: somebody else installed a provider; it is left alone.", signal.lower())
            return
        exporters = [exporter for name in asked if (exporter := _exporter(signal, name)) is not None]
        if exporters:
            _process.providers.append(install(exporters))
    except Exception as error:  # noqa: BLE001  # a misspelled OTEL_ variable must not fail requests
        why = blamed(error, *PROVIDERS, *_SUSPECTS[signal])
        _log.warning("The OTEL_ variables are not understood (%s). No %s are sent.", why, signal.lower())


def _asked(signal: Signal) -> list[str]:
    """Return the exporters that the environment asks for; none where it is silent."""
    named = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    if named:
        exporters = [name.strip() for name in named.split(",") if name.strip()]
        return [] if "none" in exporters else [name for name in exporters if name != "prometheus"]
    endpoints = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return ["otlp"] if any(os.environ.get(name, "").strip() for name in endpoints) else []


def _exporter(signal: Signal, name: str) -> Any:
    if name not in _EXPORTERS:
        known = ", ".join(_EXPORTERS)
        _log.warning("OTEL_%s_EXPORTER: '%s' is not known here; use one of %s.", signal, name[:40], known)
        return None
    try:
        return _console(signal) if name == "console" else _otlp(signal)
    except ModuleNotFoundError:
        _log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc needs the extra 'otlp-grpc' (pip install 'sfumato[otlp-grpc]'), or set "
            "it to http/protobuf. No %s are sent.",
            signal.lower(),
        )
    return None


def _console(signal: Signal) -> Any:
    if signal == "TRACES":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415  # loaded when asked for

        return ConsoleSpanExporter()
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter  # noqa: PLC0415  # the same

    return ConsoleMetricExporter()


def _otlp(signal: Signal) -> Any:
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    asked = next((value for name in names if (value := os.environ.get(name, "").strip().lower())), _PROTOCOLS[0])
    if asked not in _PROTOCOLS:
        _log.warning("OTEL_EXPORTER_OTLP_PROTOCOL: '%s' is not known here; http/protobuf is used.", asked[:40])
    # Each is loaded only when it is asked for; gRPC's is an extra.
    if asked == "grpc" and signal == "TRACES":
        from sfumato.telemetry.grpc_exporter import GrpcSpanExporter  # noqa: PLC0415

        return GrpcSpanExporter()
    if asked == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter as GrpcMetrics,
        )

        return GrpcMetrics()
    if signal == "TRACES":
        from sfumato.telemetry.http_exporter import HttpSpanExporter  # noqa: PLC0415

        return HttpSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415

    return OTLPMetricExporter()


def _installs_traces(exporters: list[Any]) -> Any:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # loaded when asked for

    from sfumato.telemetry.light import LightTracerProvider  # noqa: PLC0415  # the same

    provider = LightTracerProvider(create_resource())
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


def _installs_metrics(exporters: list[Any]) -> Any:
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  # loaded when asked for
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415  # the same

    readers = [PeriodicExportingMetricReader(exporter) for exporter in exporters]
    provider = MeterProvider(readers, create_resource(), shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider
