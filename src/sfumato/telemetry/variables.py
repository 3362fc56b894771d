"""Wrong ``OTEL_*`` variables. OpenTelemetry raises for them where it first reads them; who catches it says so here."""

from __future__ import annotations

import functools
import logging
import os
import re
from typing import Final

PROVIDERS: Final = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")
_NAME: Final = re.compile(r"OTEL_[A-Z_]+")
_log = logging.getLogger("sfumato")


def blamed(error: Exception, *suspects: str) -> str:
    """Return the kind of *error* and the variables to look at; never its text, which may hold a variable's value.

    Args:
        error: What OpenTelemetry raised.
        suspects: Variables that may be to blame where it names none.
    """
    named = _NAME.findall(str(error)) or suspects
    found = ", ".join(dict.fromkeys(name for name in named if name in os.environ))
    kind = type(error).__name__
    return f"{kind}; look at {found}" if found else kind


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, in this process the first time only."""
    _log.warning("%s", message)
