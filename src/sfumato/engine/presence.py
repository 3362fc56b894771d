"""Whether the client is still there, and which of its pictures go on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Presence:
    """Follow the tasks of one request: when its client leaves, only what upstream renders already goes on.

    Attributes:
        left: The client is gone.
        on_left: Called with the number of each picture that goes on, and its task.
    """

    def __init__(self) -> None:
        self.left = False
        self.on_left: Callable[[int, asyncio.Task[object]], None] | None = None
        self._waiting: set[asyncio.Task[object]] = set()
        self._rendering: dict[asyncio.Task[object], int] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Enclose work of the current task that ends when the client leaves, unless it is rendering by then.

        Raises:
            CancelledError: The client has left before.
        """
        task = _current()
        if self.left:
            raise asyncio.CancelledError
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)
            self._rendering.pop(task, None)

    def render(self, slot: int) -> None:
        """Note that upstream begins to render the current task's picture: from here on it is paid for."""
        self._rendering[_current()] = slot

    def pause(self) -> None:
        """Note that nothing is rendered for the current task any more."""
        self._rendering.pop(_current(), None)

    def leave(self) -> None:
        """Note that the client is gone; twice is harmless."""
        if self.left:
            return
        self.left = True
        for task in list(self._waiting):
            slot = self._rendering.get(task)
            if slot is None:
                task.cancel()
            elif self.on_left is not None:
                self.on_left(slot, task)


def _current() -> asyncio.Task[object]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a presence is told of tasks only")
    return task
