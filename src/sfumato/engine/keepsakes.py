"""Pictures that were paid for and that no cache keeps, held a while for the caller who left or comes again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from cachetools import TLRUCache

from sfumato.images.request import GeneratedImage
from sfumato.wire.payload import picture_bytes

KEPT_SECONDS: Final = 600.0
KEPT_BYTES: Final = 128 * 1024 * 1024
_ENTRY_BYTES = 1024


class Keepsakes:
    """Hold pictures in memory under keys that name a caller and a picture; the oldest make room.

    Args:
        clock: Monotonic seconds.
        max_bytes: How much is held at most.
    """

    def __init__(self, *, clock: Callable[[], float], max_bytes: int = KEPT_BYTES) -> None:
        self._kept: TLRUCache[str, tuple[GeneratedImage, float]] = TLRUCache(
            max_bytes,
            ttu=lambda key, kept, now: now + kept[1],  # noqa: ARG005  # the library's signature
            timer=clock,
            getsizeof=lambda kept: picture_bytes(kept[0].picture) + _ENTRY_BYTES,
        )
        self._running: dict[str, asyncio.Task[Any]] = {}

    def keep(self, key: str, image: GeneratedImage, *, seconds: float = KEPT_SECONDS) -> None:
        """Hold a picture for *seconds*; one larger than all that may be held is not."""
        self._kept.expire()
        if picture_bytes(image.picture) + _ENTRY_BYTES <= self._kept.maxsize:
            self._kept[key] = (image, seconds)

    def adopt(self, key: str, task: asyncio.Task[Any]) -> None:
        """Hold what a task makes, from now on, unless it is claimed before."""
        self._running[key] = task

        def settle(done: asyncio.Task[Any]) -> None:
            # Whoever claimed it meanwhile has it.
            if self._running.get(key) is not done:
                return
            del self._running[key]
            image = None if done.cancelled() or done.exception() else done.result()
            if isinstance(image, GeneratedImage):
                self.keep(key, image)

        task.add_done_callback(settle)

    def find(self, key: str) -> GeneratedImage | None:
        """Return a picture and go on holding it."""
        kept = self._kept.get(key)
        return kept[0] if kept else None

    def claim(self, key: str) -> asyncio.Task[Any] | GeneratedImage | None:
        """Hand a picture over, finished or still being made; the next who asks gets none."""
        running = self._running.pop(key, None)
        if running is not None:
            return running
        kept = self._kept.pop(key, None)
        return kept[0] if kept else None
