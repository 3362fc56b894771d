"""Files of values that stay open while their bytes are sent, and what is known of them.

Rule: bytes that have passed a check are not checked again while the file's inode, size and both of its times are those
that it had then. Whatever writes into the file changes them. So does the note of its use, which this process takes
over; another process's note costs one more check, and the use of large files is noted once a second at most.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple

from cachetools import LRUCache

_KNOWN_FILES = 16_384
_USE_SECONDS = 1.0
# Linux: read what is in memory, else fail instead of waiting for the disk.
_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)


class Version(NamedTuple):
    """What changes when a file does."""

    size: int
    written_ns: int
    changed_ns: int


class OpenFile:
    """A file open for reading, shared by everybody who reads it now; closed when the last of them lets go."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.checking = threading.Lock()
        # Not __del__: another thread could take hold of the file while it is closed.
        weakref.finalize(self, os.close, descriptor).atexit = False

    def stat(self) -> os.stat_result:
        """Return what the file is now."""
        return os.fstat(self.descriptor)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to *stop*, fewer at the file's end."""
        data = os.pread(self.descriptor, stop - start, start)
        if len(data) == stop - start or not data:
            return data
        parts = [data]
        while data and (start := start + len(data)) < stop:
            data = os.pread(self.descriptor, stop - start, start)
            parts.append(data)
        return b"".join(parts)

    def read_now(self, start: int, stop: int) -> bytes | None:
        """Return the bytes from *start* to *stop* when all of them are in memory, or when that cannot be told: None."""
        if _NO_WAIT is None:
            return None
        buffer = bytearray(stop - start)
        try:
            count = os.preadv(self.descriptor, [buffer], start, _NO_WAIT)
        except OSError:
            # Not in memory, or a file system that does not tell; a true fault is met again by who waits.
            return None
        return bytes(buffer) if count == len(buffer) else None


class OpenFiles:
    """Open the files of values, each once; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakValueDictionary[Hashable, OpenFile] = weakref.WeakValueDictionary()
        self._passed: LRUCache[Hashable, Version] = LRUCache(_KNOWN_FILES)

    def open(self, path: Path) -> OpenFile:
        """Open *path*, or return the file that is open already; many readers then take one descriptor.

        Raises:
            OSError: It cannot be opened.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        place = _place(os.fstat(descriptor))
        with self._lock:
            held = self._open.get(place)
            if held is None:
                self._open[place] = held = OpenFile(descriptor)
                return held
        os.close(descriptor)
        return held

    def note_use(self, file: OpenFile, stat: os.stat_result, now: float, *, large: bool) -> os.stat_result:
        """Set the file's time to *now* in Unix seconds, and return what the file is then.

        Args:
            file: What was used.
            stat: What it was before.
            now: When.
            large: Whether a note is left out that would be less than a second younger than the last.
        """
        if large and abs(now - stat.st_mtime) < _USE_SECONDS:
            return stat
        # A disk that has become read-only still serves; only the order of use stands still.
        with contextlib.suppress(OSError):
            os.utime(file.descriptor, (now, now))
            noted = file.stat()
            if self.has_passed(stat):
                self.note_passed(noted)
            return noted
        return stat

    def has_passed(self, stat: os.stat_result) -> bool:
        """Tell whether the bytes that a file has now have passed a check before."""
        with self._lock:
            return self._passed.get(_place(stat)) == _version(stat)

    def note_passed(self, stat: os.stat_result) -> None:
        """Remember that the bytes of a file as it is have passed a check."""
        # Two writes within a tick of the kernel's clock look alike (4 ms): only a time that we set tells enough.
        if stat.st_mtime_ns != stat.st_ctime_ns:
            with self._lock:
                self._passed[_place(stat)] = _version(stat)


class FileValue:
    """A value within an open file: read as it is needed, and whole even when it is removed or replaced meanwhile.

    Args:
        files: Where it was opened, and what is known of its bytes.
        file: The file.
        stat: What the file was when it was opened, its use noted.
        start, stop: Where the value begins and ends in it.
        head: The file's first bytes.
    """

    def __init__(
        self, files: OpenFiles, file: OpenFile, stat: os.stat_result, *, start: int, stop: int, head: bytes
    ) -> None:
        self._files = files
        self._file = file
        self._stat = stat
        self._start = start
        self._stop = stop
        self._head = head
        self._passed = False

    def __len__(self) -> int:
        """Return how many bytes it has."""
        return self._stop - self._start

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to *stop*.

        Raises:
            OSError: They cannot be read, or the file was cut short.
        """
        first, last = self._start + start, self._start + stop
        if last <= len(self._head):
            return self._head[first:last]
        data = self._file.read(first, last)
        if len(data) != stop - start:
            msg = "the value's file was cut short while it was read"
            raise OSError(msg)
        return data

    def read_now(self, start: int, stop: int) -> bytes | None:
        """Return the bytes from *start* to *stop*, or None when they would have to be waited for."""
        first, last = self._start + start, self._start + stop
        return self._head[first:last] if last <= len(self._head) else self._file.read_now(first, last)

    @property
    def vouched(self) -> bool:
        """Tell whether these bytes have passed a check."""
        return self._passed or self._files.has_passed(self._stat)

    def vouch(self, check: Callable[[], None]) -> None:
        """Run *check* on these bytes unless they have passed one; call it in a thread.

        One of many readers checks while the others wait; what it raises passes through.
        """
        with self._file.checking:
            if not self.vouched:
                check()
                self._passed = True
                # As it was when it was opened: what has changed since is another version.
                self._files.note_passed(self._stat)


def _place(stat: os.stat_result) -> Hashable:
    return stat.st_dev, stat.st_ino


def _version(stat: os.stat_result) -> Version:
    return Version(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
