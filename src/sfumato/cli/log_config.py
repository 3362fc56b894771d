"""Logging of the processes that are ours: request lines bare, so that they stay JSON, the rest with its level."""

from __future__ import annotations

from typing import Any

from sfumato.telemetry.logs import LOGGER_NAME


def log_config(level: str) -> dict[str, Any]:
    """Build the configuration for `logging.config.dictConfig`: all to stderr, *level* for the `sfumato` loggers.

    uvicorn tells only what goes wrong: the request log has a line per request.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "bare": {"format": "%(message)s"},
            "plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
        },
        "handlers": {
            "bare": {"class": "logging.StreamHandler", "formatter": "bare"},
            "plain": {"class": "logging.StreamHandler", "formatter": "plain"},
        },
        "loggers": {
            LOGGER_NAME: {"handlers": ["bare"], "level": level, "propagate": False},
            "sfumato": {"handlers": ["plain"], "level": level, "propagate": False},
        },
        "root": {"handlers": ["plain"], "level": "WARNING"},
    }
