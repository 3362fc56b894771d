"""Work that outlives the request that began it, and ends before its event loop does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


class Supervisor:
    """Keep background tasks until they are done; for one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* on a task of its own, in a context that is empty: what a request set does not reach it."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def settle(self) -> None:
        """Wait for what is running now."""
        if self._tasks:
            await asyncio.wait(self._tasks.copy())

    async def drain(self, timeout_seconds: float) -> int:
        """Wait until everything is done, then end what is not; return how much that was.

        Work that is begun meanwhile is waited for as well.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while self._tasks and (remaining := deadline - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=remaining)
        ended = list(self._tasks)
        for task in ended:
            task.cancel()
        if ended:
            await asyncio.wait(ended)
        return len(ended)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Whoever waited for it has gone: nobody else reads its error, which telemetry has noted.
        if not task.cancelled():
            task.exception()
