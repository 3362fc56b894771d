"""Pictures that were paid for and that no cache keeps, held a while for the caller who left or comes again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cachetools import TLRUCache

from sfumato.images.request import GeneratedImage
from sfumato.wire.payload import picture_bytes

KEPT_SECONDS: Final = 600.0
KEPT_BYTES: Final = 128 * 1024 * 1024
_ENTRY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class _Kept:
    images: tuple[GeneratedImage, ...]
    seconds: float


class Keepsakes:
    """Hold pictures in memory under keys that name a caller and a picture; the oldest make room.

    Args:
        clock: Monotonic seconds.
        max_bytes: How much is held at most.
    """

    def __init__(self, *, clock: Callable[[], float], max_bytes: int = KEPT_BYTES) -> None:
        self._kept: TLRUCache[str, _Kept] = TLRUCache(
            max_bytes,
            ttu=lambda key, kept, now: now + kept.seconds,  # noqa: ARG005  # the library's signature
            timer=clock,
            getsizeof=lambda kept: sum(map(_size, kept.images)),
        )
        self._running: dict[str, list[asyncio.Task[Any]]] = {}

    def keep(self, key: str, image: GeneratedImage, *, seconds: float = KEPT_SECONDS) -> None:
        """Hold a picture for *seconds*, beside others of its key; one larger than all that may be held is not."""
        self._kept.expire()
        standing = self._kept.get(key)
        images = (*(standing.images if standing else ()), image)
        if sum(map(_size, images)) <= self._kept.maxsize:
            self._kept[key] = _Kept(images, seconds)

    def adopt(self, key: str, task: asyncio.Task[Any]) -> None:
        """Hold what a task makes, from now on, unless it is claimed before."""
        self._running.setdefault(key, []).append(task)

        def settle(done: asyncio.Task[Any]) -> None:
            # Whoever claimed it meanwhile has it.
            if not self._remove(key, done):
                return
            image = None if done.cancelled() or done.exception() else done.result()
            if isinstance(image, GeneratedImage):
                self.keep(key, image)

        task.add_done_callback(settle)

    def find(self, key: str) -> GeneratedImage | None:
        """Return a picture and go on holding it."""
        kept = self._kept.get(key)
        return kept.images[0] if kept else None

    def claim(self, key: str) -> asyncio.Task[Any] | GeneratedImage | None:
        """Hand a picture over, finished or still being made; the next who asks gets another or none."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            first, *rest = kept.images
            if rest:
                self._kept[key] = _Kept(tuple(rest), kept.seconds)
            return first
        running = self._running.get(key)
        if not running:
            return None
        task = running[0]
        self._remove(key, task)
        return task

    def _remove(self, key: str, task: asyncio.Task[Any]) -> bool:
        running = self._running.get(key, [])
        if task not in running:
            return False
        running.remove(task)
        if not running:
            del self._running[key]
        return True


def _size(image: GeneratedImage) -> int:
    return picture_bytes(image.picture) + _ENTRY_BYTES
