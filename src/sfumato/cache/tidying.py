"""Eviction from a bucket, in the background: it is listed now and then, and what is oldest is removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from sfumato.cache.budget import Budget, Held

_log = logging.getLogger("sfumato.cache")


class Tidying:
    """Keep the *budget*, one look at a time; belongs to one event loop.

    Args:
        budget: What may be held.
        look: Lists what is held.
        remove: Removes values by their paths.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        look: Callable[[], Awaitable[Sequence[Held]]],
        remove: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._budget = budget
        self._look = look
        self._remove = remove
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def begin(self) -> None:
        """Begin a look unless one is under way."""
        if self._task is None or self._task.done():
            # In a context of its own: it outlives the request that began it.
            self._task = asyncio.get_running_loop().create_task(self._tidy(), context=Context())

    async def settled(self) -> None:
        """Wait for the end of a look that is under way."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def aclose(self) -> None:
        """Give up a look that is under way."""
        if self._task is not None:
            self._task.cancel()
            await self.settled()

    async def _tidy(self) -> None:
        unseen, total = self._budget.unseen(), None
        try:
            victims, total = self._budget.victims(await self._look())
            await self._remove([value.path for value in victims])
            self._budget.evictions += len(victims)
            self._failing = False
        except Exception as error:  # noqa: BLE001 - whatever befalls it, values are kept and found all the same
            if not self._failing:
                self._failing = True
                _log.warning("The cache's bucket cannot be tidied (%s); its budget is not kept.", type(error).__name__)
        self._budget.looked(total, unseen)
