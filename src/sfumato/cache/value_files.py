"""The file of one value as it was found: its first bytes, its head, and its removal, which spares what replaced it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sfumato.cache.framing import FILE_MAGIC, Head, parse_head
from sfumato.cache.open_files import OpenFiles
from sfumato.cache.store import DamagedValueError

# The head of a file, and with it the beginning of its value: a picture's entry has its own head there.
_FIRST_BYTES = 8192


class ValueFile:
    """A file that bears the name of a value, open for reading.

    Args:
        files: Opens it.
        path: Where it is.

    Raises:
        OSError: It cannot be opened or read.
    """

    __slots__ = ("_path", "file", "start", "stat")

    def __init__(self, files: OpenFiles, path: Path) -> None:
        self.file = files.open(path)
        self.stat = self.file.stat()
        self.start = self.file.read(0, _FIRST_BYTES)
        self._path = path

    def head(self, key: str | None = None) -> Head:
        """Return what stands before the value.

        Raises:
            DamagedValueError: The file is foreign, cut short, or of another key than *key*.
        """
        size = self.stat.st_size
        head = parse_head(self.start, size=size, magic=FILE_MAGIC)
        if head is None:
            # The key is longer than what is read first. What a damaged length asks for never exceeds the file.
            head = parse_head(self.file.read(0, size), size=size, magic=FILE_MAGIC)
        if head is None:
            raise DamagedValueError("the file was cut short meanwhile")
        if key is not None and head.key != key:
            raise DamagedValueError("the file is of another key")
        return head

    def read(self, head: Head, size: int) -> bytes:
        """Return the first *size* bytes of the value, or all of a shorter one.

        Raises:
            DamagedValueError: The file was cut short meanwhile; it has been removed.
        """
        stop = head.head_bytes + min(size, head.value_bytes)
        if stop <= len(self.start):
            return self.start[head.head_bytes : stop]
        data = self.file.read(head.head_bytes, stop)
        if len(data) != stop - head.head_bytes:
            self.remove()
            raise DamagedValueError("the file was cut short meanwhile")
        return data

    def remove(self) -> None:
        """Remove the file unless another process has meanwhile put a new one in its place."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self.stat, self._path.stat()):
                self._path.unlink()
