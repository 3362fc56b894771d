"""The byte budget of a directory that several processes write to, kept by a file as long as what they wrote.

The files ``lock`` and ``tally`` are described with the rest of the directory, in `sfumato.cache.filesystem`.

Rule: a write counts no files. It makes its temporary file as long as the value will be, then the tally longer by as
much. Who finds the tally near the budget looks at all files (35 ms for 10,000), evicts, and sets it right. So it may
say too much, as after a value was replaced, and never too little: who was counted before the look has a file that the
look finds, and who is counted during it stays counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sfumato.cache.budget import Held

# A tally above the first share of the budget is looked into, so that others can go on writing meanwhile. Eviction
# begins at the second, or a store just below the first would be looked into at each write, and goes down to the third.
_LOOK_SHARE, _FULL_SHARE, _KEPT_SHARE = 0.95, 0.90, 0.85
_TALLY_BYTES = 4096
# Expired values are looked for by opening every file, so rarely; until then the budget bounds them.
_SWEEP_SECONDS = 3600.0


class Tally:
    """Make room for what is written to a directory, the least recently used going first, one process at a time.

    Args:
        directory: Made with mode 0700 when it is needed.
        max_bytes: The budget for all files, shared by every process that works on the directory.
        look: Lists the values held, and counts the bytes of those being written.
        sweep: Removes the values whose time is over.
        try_lock: Locks an open file until it is closed; raises ``BlockingIOError`` when another opening has the lock.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        *,
        look: Callable[[], tuple[list[Held], int]],
        sweep: Callable[[], object],
        try_lock: Callable[[int], None],
    ) -> None:
        self.max_bytes = max_bytes
        self.evictions = 0
        self._directory = directory
        self._look = look
        self._sweep = sweep
        self._try_lock = try_lock

    def make_room(self, size: int, now: float) -> bool:
        """Count a temporary file of *size*, evict and sweep when it is time; False when there is no room for it."""
        counted = self._count(size, self.max_bytes * _LOOK_SHARE)
        if counted and not self._is_sweep_due(now):
            return True
        return self._tidy(now) or counted or self._count(size, self.max_bytes)

    def _count(self, size: int, limit: float) -> bool:
        """Make the tally longer unless that exceeds *limit*, or nobody has looked yet."""
        blocks = -(-size // _TALLY_BYTES)
        with contextlib.suppress(FileNotFoundError), self._sole_counter(os.O_RDWR) as tally:
            counted = os.fstat(tally).st_size + blocks
            if counted * _TALLY_BYTES <= limit:
                os.ftruncate(tally, counted)
                return True
        return False

    def _tallied_bytes(self) -> int | None:
        """Return how much is held at most, None when nobody has looked yet."""
        length = _file_bytes(self._directory / "tally")
        return None if length is None else length * _TALLY_BYTES

    def _is_sweep_due(self, now: float) -> bool:
        try:
            swept_at = (self._directory / "lock").stat().st_mtime
        except FileNotFoundError:
            return True
        # A time to come is of before the clock was set back.
        return abs(now - swept_at) >= _SWEEP_SECONDS

    def _tidy(self, now: float) -> bool:
        """Sweep what has expired when it is time, evict, and set the tally right; False when others are at it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._sole_evictor() as lock:
            if lock is None:
                return False
            before = self._tallied_bytes() or 0
            if self._is_sweep_due(now):
                self._sweep()
                os.utime(lock, (now, now))
            held = self._evict()
            with self._sole_counter(os.O_RDWR | os.O_CREAT) as tally:
                # What others counted during the look may or may not be in it already: it stays counted.
                during = max(0, os.fstat(tally).st_size - before // _TALLY_BYTES)
                os.ftruncate(tally, -(-held // _TALLY_BYTES) + during)
        return held <= self.max_bytes

    def _evict(self) -> int:
        """Remove the least recently used when the store is full; return the bytes that stay, unfinished ones too."""
        values, unfinished_bytes = self._look()
        total = unfinished_bytes + sum(value.size for value in values)
        if total <= self.max_bytes * _FULL_SHARE:
            return total
        for value in sorted(values):
            if total <= self.max_bytes * _KEPT_SHARE:
                break
            total -= value.size
            with contextlib.suppress(FileNotFoundError):
                Path(value.path).unlink()
                self.evictions += 1
        return total

    @contextlib.contextmanager
    def _sole_counter(self, flags: int) -> Iterator[int]:
        """Yield the tally's descriptor; others wait, for the time of two system calls."""
        descriptor = os.open(self._directory / "tally", flags | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            # A child that was forked meanwhile has the same opening, and closes nothing.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    @contextlib.contextmanager
    def _sole_evictor(self) -> Iterator[int | None]:
        """Yield the lock's descriptor, or None when another one evicts."""
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor if self._is_turn(descriptor) else None
        finally:
            # A child that was forked meanwhile has the same opening, and closes nothing.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _is_turn(self, lock: int) -> bool:
        """Lock it; False when somebody else evicts, or has just looked for the first time while this one waited."""
        try:
            self._try_lock(lock)
        except BlockingIOError:
            if self._tallied_bytes() is not None:
                return False
        else:
            return True
        fcntl.flock(lock, fcntl.LOCK_EX)
        return self._tallied_bytes() is None


def _file_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
