"""The byte budget of a directory that several processes write to, kept by a file as long as what they wrote.

The files ``lock`` and ``tally`` are described with the rest of the directory, in `sfumato.cache.filesystem`.

Rule: a write counts no files, it makes the tally longer by its own size first. Who finds it longer than the budget
looks at all files (35 ms for 10,000), evicts, and sets it right. So it may say too much, and hardly ever too little.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sfumato.cache.budget import Held

# Above the first share of the budget eviction begins, so that others can go on writing meanwhile; it goes down to the
# second, so that it is not needed again at the next write.
_FULL_SHARE, _KEPT_SHARE = 0.95, 0.85
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

    def make_room(self, path: Path, size: int, now: float) -> bool:
        """Count what will be written, evict and sweep when it is time; False when there is no room for it."""
        # A value that is replaced makes room itself.
        growth = max(0, size - (_file_bytes(path) or 0))
        held = self._tallied_bytes()
        full = held is None or held + growth > self.max_bytes * _FULL_SHARE or self._is_sweep_due(now)
        if full and self._tidy(size, now):
            return True
        if held is not None and held + growth > self.max_bytes:
            return False
        with (self._directory / "tally").open("ab", buffering=0) as tally:
            # What several writers append the kernel puts one after the other.
            tally.write(bytes(-(-growth // _TALLY_BYTES)))
            counted = tally.tell() * _TALLY_BYTES
        # Compared again now that it is counted: others may have begun to write at the same moment. What is refused
        # stays counted until the next look.
        return held is None or counted <= max(self.max_bytes, held + growth + _TALLY_BYTES)

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

    def _tidy(self, size: int, now: float) -> bool:
        """Sweep what has expired when it is time, and evict until *size* more fits in; False when others are at it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._sole_evictor() as lock:
            if lock is None:
                return False
            before = self._tallied_bytes() or 0
            if self._is_sweep_due(now):
                self._sweep()
                os.utime(lock, (now, now))
            held = self._evict(size) + size
            # What others counted during the look may or may not be in it already: it stays counted.
            held += max(0, (self._tallied_bytes() or 0) - before)
            with (self._directory / "tally").open("ab") as tally:
                tally.truncate(-(-held // _TALLY_BYTES))
        return True

    def _evict(self, size: int) -> int:
        """Remove the least recently used when *size* more fills the store; return the bytes that stay."""
        values, unfinished_bytes = self._look()
        total = unfinished_bytes + sum(value.size for value in values)
        if total + size <= self.max_bytes * _FULL_SHARE:
            return total
        for value in sorted(values):
            if total + size <= self.max_bytes * _KEPT_SHARE:
                break
            total -= value.size
            with contextlib.suppress(FileNotFoundError):
                Path(value.path).unlink()
                self.evictions += 1
        return total

    @contextlib.contextmanager
    def _sole_evictor(self) -> Iterator[int | None]:
        """Yield the lock's descriptor, or None when another one evicts."""
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._try_lock(descriptor)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
        finally:
            os.close(descriptor)


def _file_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
