"""The metrics of this process in Prometheus's format: the extra ``prometheus``.

It has a meter provider of its own beside the global one: so it shows our metrics whoever installed the global one, and
whether or not anything is pushed from there.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from prometheus_client import CollectorRegistry

_EXPORTER: Final = "opentelemetry.exporter.prometheus"


class Exposition:
    """Collect the metrics of *provider* until somebody scrapes them.

    Attributes:
        provider: A meter provider.

    Raises:
        ImportError: The extra ``prometheus`` is not installed.
    """

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  # loaded where it is wanted
        from prometheus_client import CollectorRegistry  # noqa: PLC0415  # an extra

        from sfumato.telemetry.sdk import create_resource  # noqa: PLC0415  # it loads the SDK

        # Not prometheus_client's own registry: a host that serves that one would show our metrics twice.
        self._registry = CollectorRegistry()
        self.provider = MeterProvider([_reader(self._registry)], create_resource(), shutdown_on_exit=False)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the metrics and their content type; it takes some milliseconds, so call it in a thread.

        Args:
            accept: The scraper's ``Accept`` header, which may ask for OpenMetrics.
        """
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415  # an extra

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _reader(registry: CollectorRegistry) -> MetricReader:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415  # an extra

    if "registry" in inspect.signature(PrometheusMetricReader).parameters:
        return PrometheusMetricReader(registry=registry)
    # 0.54b1, which LiteLLM's extra proxy-runtime pins (1.106.2, seen 2026-11-22), knows prometheus_client's own only.
    from prometheus_client import REGISTRY  # noqa: PLC0415  # an extra

    reader = PrometheusMetricReader()
    collector = reader._collector  # noqa: SLF001  # what it registered
    REGISTRY.unregister(collector)
    registry.register(collector)
    return reader


@functools.cache
def process_exposition() -> Exposition | None:
    """Return this process's exposition, the same at each call; None without the extra ``prometheus``."""
    try:
        found = importlib.util.find_spec(_EXPORTER)
    except ModuleNotFoundError:
        found = None
    return Exposition() if found else None
