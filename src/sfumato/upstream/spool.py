"""Answers past a memory budget go to disk, chunk by chunk, while they arrive."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import os
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio import to_thread

from sfumato.wire.lifter import Lifted, LiftedString, Lifter
from sfumato.wire.payload import Piece

DEFAULT_BYTES = 256 * 1024 * 1024
# Smaller writes cost more in threads than they free.
_BATCH_BYTES = 1024 * 1024
# An answer may wait this long in all for others to be sent before it goes to disk, which costs half as much CPU again
# (20 MB, 32 at a time, 2026-11-22).
PATIENCE_SECONDS = 1.0
_PAUSE_SECONDS = 0.01
# Writing works again when it has not failed for so long.
_WELL_SECONDS = 60.0
# Linux: read what is in memory, else fail instead of waiting for the disk.
_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)

_log = logging.getLogger("sfumato")


class Spool:
    """Count the bytes of answers that are in memory, in every request of a process, and bound them.

    What cannot be written stays in memory: a picture that is paid for is not lost to a full disk. That is logged once,
    and again when writing works again.

    Args:
        directory: Where the files are, which have no names; the system's directory for temporary files by default.
            Memory is no place for them: a tmpfs gains nothing.
        after_bytes: The budget. The answer that is read longest may be over it while others leave.
        patience_seconds: How long an answer waits in all, unread, for others to leave before it goes to disk.
        sleep: Waits for seconds.
        clock: Seconds that only go forwards.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        after_bytes: int = DEFAULT_BYTES,
        patience_seconds: float = PATIENCE_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._after_bytes = after_bytes
        self.patience_seconds = patience_seconds
        self.sleep = sleep
        self._held = 0
        # Answers that are being read, the one that began first in front.
        self._reading: dict[Tab, None] = {}
        self._lock = threading.Lock()
        # What died with its last reference, in whatever thread and moment: nothing there may take a lock.
        self._freed: deque[int] = deque()
        # When writing last failed, as long as it is not known to work again.
        self._failed_at: float | None = None

    @property
    def held_bytes(self) -> int:
        """Return how much of all answers is in memory."""
        return self._add(0)

    @property
    def is_over(self) -> bool:
        """Tell whether the budget is exceeded."""
        return self.held_bytes > self._after_bytes

    def lets_pass(self, tab: Tab) -> bool:
        """Tell whether *tab* may go on in memory over the budget: the first of those read, while others leave."""
        if next(iter(self._reading), None) is not tab:
            return False
        return self.held_bytes - sum(other.held_bytes for other in self._reading) < self._after_bytes

    def tab(self) -> Tab:
        """Open the account of one answer."""
        return Tab(self)

    def _add(self, count: int) -> int:
        with self._lock:
            self._held += count
            while self._freed:
                self._held -= self._freed.popleft()
            return self._held

    def _pledge(self, count: int, view: memoryview) -> None:
        self._add(count)
        weakref.finalize(view, self._freed.append, count).atexit = False

    def _report(self, error: OSError | None) -> None:
        now = self._clock()
        if error is not None:
            if self._failed_at is None:
                _log.warning("Answers cannot be spooled (%s) and stay in memory.", type(error).__name__)
            self._failed_at = now
        elif self._failed_at is not None and now - self._failed_at >= _WELL_SECONDS:
            # On a disk that is almost full a small batch fits where the next does not.
            self._failed_at = None
            _log.warning("Answers can be spooled again.")


class Tab:
    """What one answer holds while it is read; closed, it holds nothing."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._held = 0
        self._patience = spool.patience_seconds
        self._file: _File | None = None

    @property
    def held_bytes(self) -> int:
        """Return what it holds in memory."""
        return self._held

    def __enter__(self) -> Self:
        self._spool._reading[self] = None  # noqa: SLF001  # the two are one thing, per process and per answer
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self._spool._reading[self]  # noqa: SLF001  # as above
        self._hold(-self._held)

    async def fed(self, count: int, lifter: Lifter) -> None:
        """Take note that *lifter* was fed with *count* bytes; when all is too much, wait, or move it to disk."""
        self._hold(count)
        while lifter.movable_bytes >= _BATCH_BYTES and self._spool.is_over and not self._spool.lets_pass(self):
            if self._patience <= 0:
                await self._move(lifter)
                return
            self._patience -= _PAUSE_SECONDS
            await self._spool.sleep(_PAUSE_SECONDS)

    def settle(self, reply: Lifted) -> Lifted:
        """Let each long string of *reply* count until nobody has its pieces any more."""
        return Lifted(reply.skeleton, tuple(self._ticketed(string) for string in reply.strings))

    def _hold(self, count: int) -> None:
        self._held += count
        self._spool._add(count)  # noqa: SLF001  # the two are one thing, per process and per answer

    async def _move(self, lifter: Lifter) -> None:
        batch = lifter.take()
        try:
            blob: Piece = await to_thread.run_sync(functools.partial(self._write, batch))
        except OSError as error:
            lifter.give_back(batch)
            self._spool._report(error)  # noqa: SLF001  # as above
        else:
            lifter.give_back((blob,))
            self._hold(-len(blob))
            self._spool._report(None)  # noqa: SLF001  # as above

    def _write(self, batch: Iterable[bytes | memoryview]) -> Spooled:
        if self._file is None:
            self._file = _File(self._spool._directory)  # noqa: SLF001  # as above
        return self._file.append(batch)

    def _ticketed(self, string: LiftedString) -> LiftedString:
        pieces = string.pieces
        held = [(place, piece) for place, piece in enumerate(pieces) if isinstance(piece, bytes | memoryview)]
        if not held:
            return string
        size = sum(len(piece) for _, piece in held)
        # One piece is watched for all. It is the last one, which is let go last, and a view: `bytes` cannot be watched.
        place, last = held[-1]
        view = memoryview(last)
        self._hold(-size)
        self._spool._pledge(size, view)  # noqa: SLF001  # as above
        return dataclasses.replace(string, pieces=(*pieces[:place], view, *pieces[place + 1 :]))


class _File:
    """A file without a name, gone with its last `Spooled`."""

    def __init__(self, directory: Path | None) -> None:
        descriptor, path = tempfile.mkstemp(prefix="sfumato-", dir=directory)
        self.descriptor = descriptor
        # Not __del__: whoever reads in another thread holds the file.
        weakref.finalize(self, os.close, descriptor).atexit = False
        Path(path).unlink()
        self._end = 0

    def append(self, batch: Iterable[bytes | memoryview]) -> Spooled:
        start = self._end
        end = start
        for piece in batch:
            view = memoryview(piece)
            while view:
                written = os.pwrite(self.descriptor, view, end)
                view, end = view[written:], end + written
        self._end = end
        return Spooled(self, start, end)


class Spooled:
    """A `Blob`: bytes of an answer in a file, which lives as long as they do."""

    def __init__(self, file: _File, start: int, stop: int) -> None:
        self._file = file
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        """Return how many there are."""
        return self._stop - self._start

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to *stop*.

        Raises:
            OSError: They cannot be read.
        """
        parts: list[bytes] = []
        while start < stop:
            part = os.pread(self._file.descriptor, stop - start, self._start + start)
            if not part:
                msg = "a spooled answer is shorter than it was"
                raise OSError(msg)
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_now(self, start: int, stop: int) -> bytes | None:
        """Return the bytes from *start* to *stop*, or None when they would have to be waited for."""
        if _NO_WAIT is None:
            return None
        buffer = bytearray(stop - start)
        try:
            count = os.preadv(self._file.descriptor, [buffer], self._start + start, _NO_WAIT)
        except OSError:
            # Not in memory, or a file system that does not tell; a true fault is met again by who waits.
            return None
        return bytes(buffer) if count == len(buffer) else None
