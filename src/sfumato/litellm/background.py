"""An event loop in a thread: where LiteLLM's synchronous calls run."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_CLOSE_SECONDS = 5.0


class BackgroundLoop:
    """One event loop in a thread of its own, for synchronous calls; started by the first.

    Args:
        on_close: Runs in the loop before it ends, to release what belongs to the loop.
    """

    def __init__(self, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._on_close = on_close
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run *work* there and wait for it; an interrupted wait cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Release what belongs to the loop and end the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or not thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._on_close(), loop).result(_CLOSE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSE_SECONDS)
        loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            # After a fork the thread is gone, and its loop with it.
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="sfumato", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            return self._loop
