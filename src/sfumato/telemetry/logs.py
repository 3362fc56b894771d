"""The request log: one JSON line per request end, through stdlib logging."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from sfumato.telemetry.observer import NullOperation, Operation, OperationRecord
from sfumato.telemetry.vitals import Vitals

LOGGER_NAME = "sfumato.requests"


class RequestLog:
    """An observer that writes each request's end to the logger ``sfumato.requests``; configures no logging.

    Args:
        logger: Where to write.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger(LOGGER_NAME)

    def begin(self, record: OperationRecord) -> Operation:
        """Begin to follow a request."""
        return _LoggedOperation(self._logger, record)

    def watch(self, vitals: Vitals) -> None:
        """Look at nothing: the log is of requests."""


class _LoggedOperation(NullOperation):
    def __init__(self, logger: logging.Logger, record: OperationRecord) -> None:
        self._logger = logger
        self._record = record

    def end(self) -> None:
        level = _level(self._record)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", msgspec.json.encode(log_fields(self._record)).decode())


def log_fields(record: OperationRecord) -> dict[str, Any]:
    """Return the fields of a request's log line."""
    error = record.error
    return {
        "event": "image_request",
        "error_type": error.error_type if error else None,
        "error_category": error.category if error else None,
        "error_code": error.code if error else None,
        "error_reason": error.reason if error else None,
        "retry_count": record.retry_count,
        "account": ",".join(dict.fromkeys(record.accounts)) or None,
        "model": record.model,
        "prompt_hash": record.prompt_hash,
        "generation_time_ms": round(record.duration_seconds * 1000, 1),
        "resolution": record.resolution,
        "aspect_ratio": record.aspect_ratio,
        "quality": record.quality,
        "style": record.style,
        "n": record.n,
        "images": record.images,
        "failures": len(record.failure_codes),
        "failure_codes": ",".join(sorted(set(record.failure_codes))) or None,
        "safety_level": record.safety_level,
        "cache": record.cache,
        "cost_usd": round(record.cost_usd, 6),
        "savings_usd": round(record.savings_usd, 6),
        "operation": record.operation,
        "status_code": record.status_code,
        "tenant": record.tenant,
        "user_hash": record.user_hash,
        "door": record.call.door,
        "trace_id": record.trace_id or record.call.trace_id,
        "span_id": record.span_id,
        "request_id": record.call.request_id,
    }


def _level(record: OperationRecord) -> int:
    if record.status_code < 400:
        return logging.WARNING if record.failure_codes else logging.INFO
    return logging.ERROR if record.status_code >= 500 else logging.WARNING
