"""The port for short notes that processes and hosts share, each kept for a while; and notes of one process alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cachetools import TLRUCache

_MAX_NOTES = 100_000


class Notes(Protocol):
    """Keep the first text that is written under a key, for its time.

    Methods may raise what their medium raises (``OSError``, a client library's errors).
    """

    async def write(self, key: str, text: str, *, seconds: float) -> str:
        """Write *text* where nothing stands yet; return what stands there now."""
        ...

    async def aclose(self) -> None:
        """Wait for work that nobody waits for."""
        ...


class LocalNotes:
    """Notes that no other process sees, at most 100,000.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._notes: TLRUCache[str, tuple[str, float]] = TLRUCache(
            _MAX_NOTES,
            ttu=lambda key, note, now: now + note[1],  # noqa: ARG005  # the library's signature
            timer=clock,
        )

    async def write(self, key: str, text: str, *, seconds: float) -> str:
        """Write *text* where nothing stands yet; return what stands there now."""
        return self._notes.setdefault(key, (text, seconds))[0]

    async def aclose(self) -> None:
        """Do nothing."""
