"""``GET /gemini-image/metrics``: this process's metrics in Prometheus's format, for administrators or for everyone."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sfumato.asgi.admin_door import AdminDoor, Answer
from sfumato.asgi.routes import OWN_PREFIX
from sfumato.runtime import Runtime
from sfumato.telemetry.exposition import Exposition, process_exposition
from sfumato.telemetry.sdk import is_disabled

_PATH = f"{OWN_PREFIX}metrics"
_NOT_AVAILABLE = {"type": "server_error", "param": None, "code": "not_available"}
_NO_EXTRA = "The metrics need the extra 'prometheus': pip install 'sfumato[prometheus]'. OTLP needs nothing more."
_ONE_OF_SEVERAL = (
    "This process is one of several workers, and speaks for itself only. Push metrics with OTLP instead: set "
    "OTEL_EXPORTER_OTLP_ENDPOINT. If it is the only one, set WEB_CONCURRENCY=1."
)
_DISABLED = "OTEL_SDK_DISABLED=true switches all metrics off, these too. Unset it."
_NOT_UNDERSTOOD = "OpenTelemetry does not understand one of the OTEL_ variables. The log of the start says which."


class MetricsRoute:
    """Answer the route of the metrics. It exists where there is an admin key or where metrics are public.

    Args:
        runtime: Gives the admin key, and counts.
        workers: How many processes serve; by default told by `WEB_CONCURRENCY`, else guessed: a process that
            multiprocessing started is one of several, as uvicorn's workers are, and so is one of gunicorn's.
        find_exposition: Gives what is shown, None where the extra is missing; raises where a variable is wrong.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        workers: int | None = None,
        find_exposition: Callable[[], Exposition | None] = process_exposition,
    ) -> None:
        self._door = AdminDoor(runtime.settings, public=runtime.settings.metrics_public)
        self._workers = count_workers() if workers is None else workers
        self._find_exposition = find_exposition

    def serves(self, method: str, path: str) -> bool:
        """Tell whether a request is for the route."""
        return self._door.exists and method in ("GET", "HEAD") and path.rstrip("/") == _PATH

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that `serves` is true of; the body is not read."""
        await self._door.respond(self._answer, scope, receive, send)

    async def _answer(self, request: Request) -> Answer | Response:
        found = self._find()
        if isinstance(found, str):
            return 501, {"error": {**_NOT_AVAILABLE, "message": found}}
        body, content_type = await to_thread.run_sync(found.render, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    def _find(self) -> Exposition | str:
        """Return what is to be shown, else why nothing is."""
        if self._workers > 1:
            return _ONE_OF_SEVERAL
        if is_disabled():
            return _DISABLED
        try:
            return self._find_exposition() or _NO_EXTRA
        except Exception:  # noqa: BLE001  # whoever created the observer has logged it
            return _NOT_UNDERSTOOD


def count_workers() -> int:
    """Return how many processes serve beside this one and with it; 2 where they are several."""
    told = os.environ.get("WEB_CONCURRENCY", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    # gunicorn sets it for its workers (23.0, arbiter.py); its `-w` stands in no variable.
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"):
        return 2
    return 1 if multiprocessing.parent_process() is None else 2
