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
        # With the number of the picture that upstream renders for it, None while it waits.
        self._tasks: dict[asyncio.Task[object], int | None] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Enclose work of the current task that ends when the client leaves, unless it is rendering by then.

        Raises:
            CancelledError: The client has left before.
        """
        task = _current()
        if self.left:
            raise asyncio.CancelledError
        self._tasks[task] = None
        try:
            yield
        finally:
            del self._tasks[task]

    def render(self, slot: int) -> None:
        """Note that upstream begins to render the current task's picture: from here on it is paid for."""
        self._note(slot)

    def pause(self) -> None:
        """Note that nothing is rendered for the current task any more."""
        self._note(None)

    def leave(self) -> None:
        """Note that the client is gone; twice is harmless."""
        if self.left:
            return
        self.left = True
        for task, slot in list(self._tasks.items()):
            if slot is None:
                task.cancel()
            elif self.on_left is not None:
                self.on_left(slot, task)

    def _note(self, slot: int | None) -> None:
        task = _current()
        if task in self._tasks:
            self._tasks[task] = slot


def _current() -> asyncio.Task[object]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a presence is told of tasks only")
    return task
