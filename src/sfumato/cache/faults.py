"""What went wrong in the cache, in words that tell nothing secret."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

from sfumato.cache.store import DamagedValueError

CacheOperation = Literal["lookup", "store", "invalidate", "clear", "list", "stats", "close"]


@dataclass(frozen=True, slots=True)
class CacheFault:
    """Something went wrong in the cache and the request went on.

    Attributes:
        operation: What was being done.
        reason: A low-cardinality word: ``damaged``, ``clock``, an errno's name (``ENOSPC``) or an exception's class.
    """

    operation: CacheOperation
    reason: str


class CacheUnavailableError(Exception):
    """An administrator's question met a fault, which is counted; no request ever sees this.

    Args:
        fault: What went wrong.
    """

    def __init__(self, fault: CacheFault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class FutureEntryError(Exception):
    """An entry was made later than now: the clock was set back, so its age cannot be known."""


def reason_of(error: Exception) -> str:
    """Return the word for *error*: its text may hold paths or addresses, its kind never does."""
    if isinstance(error, DamagedValueError):
        return "damaged"
    if isinstance(error, FutureEntryError):
        return "clock"
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, "OSError")
    return type(error).__name__
