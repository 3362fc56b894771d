"""OpenTelemetry's instrumentation of httpx, on our own client, for attempts only, and without what is secret.

What it records can be widened by environment variables, up to every header, and it records whole addresses. So it is
shown a copy of the request: no header that could hold a key, no query. Requests other than attempts pass it by: the
address of a client's picture is the client's.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

import httpx
from opentelemetry import context, propagate
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from sfumato.telemetry.providers import metrics_are_taken, traces_are_taken
from sfumato.telemetry.spans import ATTEMPT_KEY

_SHOWN: Final = frozenset({"accept", "accept-encoding", "content-length", "content-type", "host", "user-agent"})
_REQUEST: Final = "sfumato.request"
_RESPONSE: Final = "sfumato.response"


def instrument(
    client: httpx.AsyncClient,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Make *client* record its attempts and tell Google their trace; calling it twice is calling it once.

    Args:
        client: Our own; no other client is touched.
        tracer_provider: OpenTelemetry's global one by default.
        meter_provider: The same for metrics.
    """
    # httpx has no other way to change a client's transport; the instrumentation's own function does the same.
    inner = client._transport  # noqa: SLF001
    if isinstance(inner, _Attempted):
        return
    # 0.54b1, which LiteLLM's extra proxy-runtime pins (2026-11-22), counts no calls and does not know the argument.
    knows_meters = "meter_provider" in inspect.signature(AsyncOpenTelemetryTransport).parameters
    meters: dict[str, Any] = {"meter_provider": meter_provider} if knows_meters else {}
    traced = AsyncOpenTelemetryTransport(_Whole(inner), tracer_provider=tracer_provider, **meters)
    always = tracer_provider is not None or meter_provider is not None
    client._transport = _Attempted(inner, traced, always=always)  # noqa: SLF001


class _Attempted(httpx.AsyncBaseTransport):
    """Send attempts through the instrumentation, everything else past it.

    Where nobody has installed a provider it would cost a tenth of a small request to record nothing. The caller's trace
    goes on to Google all the same.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, traced: httpx.AsyncBaseTransport, *, always: bool) -> None:
        self._inner = inner
        self._traced = traced
        self._always = always

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not context.get_value(ATTEMPT_KEY):
            return await self._inner.handle_async_request(request)
        if not (self._always or traces_are_taken() or metrics_are_taken()):
            propagate.inject(request.headers)
            return await self._inner.handle_async_request(request)
        shown = httpx.Request(
            request.method,
            request.url.copy_with(query=None, username="", password=""),
            headers=[(name, value) for name, value in request.headers.multi_items() if name in _SHOWN],
            stream=request.stream,
            extensions={_REQUEST: request},
        )
        await self._traced.handle_async_request(shown)
        whole: httpx.Response = shown.extensions[_RESPONSE]
        return whole

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Whole(httpx.AsyncBaseTransport):
    """Send the request that the instrumentation was shown a copy of, with the headers that it added."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        whole: httpx.Request = request.extensions[_REQUEST]
        for name, value in request.headers.multi_items():
            if name not in _SHOWN:
                whole.headers[name] = value
        response = await self._inner.handle_async_request(whole)
        request.extensions[_RESPONSE] = response
        # An answer may repeat what it was asked, in any header.
        headers = [(name, value) for name, value in response.headers.multi_items() if name in _SHOWN]
        return httpx.Response(response.status_code, headers=headers, extensions=response.extensions)
