"""The store in plain files, shared by any number of processes on one machine. Here is all of its disk format.

::

    <directory>/lock                          held (flock) by whoever evicts; its mtime is the time of the last sweep
    <directory>/tally                         one byte for each 4 KB that is held, or was since the last look
    <directory>/ab/<sha256 of the key>        one value; its mtime is the time of its last use
    <directory>/ab/<sha256 of the key>.*.tmp  a value being written

    a file: a head (`sfumato.cache.framing`) and the value

Rule 1: a value is written beside its place and moved there by ``os.replace``, so a reader sees an old value, a new one
or none. Nothing is synced to the disk, and the value's bytes are not summed here: what a power cut tears or a disk
flips in them, the digest finds that a picture's entry carries (a second sum cost a fifth of a lookup).
Rule 2: readers wait for nobody, and writers not for who evicts: only eviction takes the lock, and it gives way when
somebody else is at it, but for a directory's first look (`sfumato.cache.tally`).
Rule 3: a value above 64 KB is not read by a lookup: its file stays open and is read as the answer is sent. Removing or
replacing it meanwhile changes nothing for who reads it (`sfumato.cache.open_files`).
Rule 4: nothing that does not bear the name of a value or of a temporary file is ever removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import math
import os
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from anyio import to_thread

from sfumato.cache.budget import Held
from sfumato.cache.framing import FILE_MAGIC, Head, build_head
from sfumato.cache.open_files import FileValue, OpenFiles
from sfumato.cache.store import WHOLE_BYTES, DamagedValueError, StoreStats
from sfumato.cache.tally import Tally
from sfumato.cache.threads import run_whole
from sfumato.cache.value_files import ValueFile
from sfumato.wire.payload import DECODED_BYTES, Piece, chunks, size_of

_STALE_TEMP_SECONDS = 900.0
_SHARD_NAME = re.compile(r"[0-9a-f]{2}")
_VALUE_NAME = re.compile(r"[0-9a-f]{64}")
_TEMP_NAME = re.compile(r"[0-9a-f]{64}\.[0-9A-Za-z_]+\.tmp")
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC


class FilesystemStore:
    """Keep values in files, the least recently used making room.

    All work is done in threads, but reading a large value that `get` has found: that is its reader's. Every method
    raises ``OSError`` when the disk refuses.

    Args:
        directory: Made with mode 0700 at the first write, and again whenever it is gone.
        max_bytes: The budget for all files, shared by every process that works on the directory.
        clock: Unix seconds.
    """

    def __init__(self, directory: Path, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._files = OpenFiles()
        self._tally = Tally(directory, max_bytes, look=self._look, sweep=self._live_keys, try_lock=_try_lock)

    async def get(self, key: str) -> bytes | FileValue | None:
        """Return the value, a large one still in its file, or None when there is none or its time is over.

        An expired file is removed.

        Raises:
            DamagedValueError: The file was foreign, of another key or cut short; it has been removed.
        """
        return await to_thread.run_sync(self._get, key)

    async def peek(self, key: str, size: int) -> bytes | None:
        """Return the first *size* bytes of the value, or None as `get`.

        Raises:
            DamagedValueError: The file was foreign, of another key or cut short; it has been removed.
        """
        return await to_thread.run_sync(self._peek, key, size)

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        """Make room for the *value* and store it; True when it is kept.

        It is not when the store is full while somebody else is evicting: then it would exceed the budget or wait.
        No temporary file stays when the disk refuses, nor when the caller is cancelled: the thread ends what it began.
        """
        return await run_whole(functools.partial(self._set, key, value, expires_in))

    async def delete(self, key: str) -> bool:
        """Remove a value; True when there was a file, expired or not."""
        return await to_thread.run_sync(_unlink, self._path(key))

    async def clear(self) -> int:
        """Remove every value; return how many there were."""
        return await to_thread.run_sync(lambda: sum(_unlink(Path(file.path)) for file in self._look()[0]))

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys whose time is not over, removing the others' files; damaged ones are passed over."""
        for key in await to_thread.run_sync(self._live_keys):
            yield key

    async def stats(self) -> StoreStats:
        """Look at the whole directory and count."""
        held, _ = await to_thread.run_sync(self._look)
        size = sum(file.size for file in held)
        return StoreStats(
            entries=len(held),
            size_bytes=size,
            capacity_bytes=self._tally.max_bytes,
            evictions=self._tally.evictions,
        )

    async def aclose(self) -> None:
        """Do nothing: a file is closed when nobody reads it any more."""

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._directory / digest[:2] / digest

    def _get(self, key: str) -> bytes | FileValue | None:
        found = self._find(key)
        if found is None:
            return None
        file, head = found
        small = file.read(head, head.value_bytes) if head.value_bytes <= WHOLE_BYTES else None
        stat = self._files.note_use(file.file, file.stat, self._clock(), large=small is None)
        if small is not None:
            return small
        return FileValue(self._files, file.file, stat, start=head.head_bytes, stop=stat.st_size, head=file.start)

    def _peek(self, key: str, size: int) -> bytes | None:
        found = self._find(key)
        if found is None:
            return None
        file, head = found
        return file.read(head, size)

    def _find(self, key: str) -> tuple[ValueFile, Head] | None:
        """Open the value's file unless its time is over; then it is removed."""
        try:
            file = ValueFile(self._files, self._path(key))
        except FileNotFoundError:
            return None
        try:
            head = file.head(key)
        except DamagedValueError:
            file.remove()
            raise
        if self._clock() < head.expires_at:
            return file, head
        file.remove()
        return None

    def _set(self, key: str, value: Sequence[Piece], expires_in: float | None) -> bool:
        path, now = self._path(key), self._clock()
        expires_at = math.inf if expires_in is None else now + expires_in
        head = build_head(key, expires_at=expires_at, value_bytes=size_of(value), magic=FILE_MAGIC)
        size = len(head) + size_of(value)
        kept = size <= self._tally.max_bytes and expires_at > now and self._write(path, (head, *value), size, now)
        if not kept:
            _unlink(path)
        return kept

    def _write(self, path: Path, pieces: Sequence[Piece], size: int, now: float) -> bool:
        temp = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            descriptor = os.open(temp, _NEW_FILE, 0o600)
        except FileNotFoundError:
            # One by one: `parents=True` would give the directory the default mode.
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(temp, _NEW_FILE, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - Path opens no descriptors
                _reserve(descriptor, size)
                if not self._tally.make_room(size, now):
                    _unlink(temp)
                    return False
                for piece in pieces:
                    # A fresh picture's base64 is decoded in steps as it is written.
                    file.writelines(
                        (piece,) if isinstance(piece, bytes | memoryview) else chunks((piece,), DECODED_BYTES)
                    )
                file.flush()
                os.utime(descriptor, (now, now))
            temp.replace(path)
        except BaseException:
            _unlink(temp)
            raise
        return True

    def _shards(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                if _SHARD_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path)

    def _look(self) -> tuple[list[Held], int]:
        """List the files of values and count the bytes being written; remove what writers left behind."""
        values: list[Held] = []
        unfinished_bytes = 0
        stale = self._clock() - _STALE_TEMP_SECONDS
        for shard in self._shards():
            with contextlib.suppress(FileNotFoundError), os.scandir(shard) as entries:
                for entry in entries:
                    # Any file may be gone by now: other processes evict, too.
                    with contextlib.suppress(FileNotFoundError):
                        if _VALUE_NAME.fullmatch(entry.name):
                            stat = entry.stat(follow_symlinks=False)
                            values.append(Held(stat.st_mtime, stat.st_size, entry.path))
                        elif _TEMP_NAME.fullmatch(entry.name):
                            stat = _stat_unfinished(entry)
                            if stat.st_mtime < stale:
                                # Gone when it has become a value meanwhile.
                                _unlink(Path(entry.path))
                            unfinished_bytes += stat.st_size
        return values, unfinished_bytes

    def _live_keys(self) -> list[str]:
        now = self._clock()
        return [key for held in self._look()[0] if (key := self._live_key(Path(held.path), now)) is not None]

    def _live_key(self, path: Path, now: float) -> str | None:
        """Return the key of a file whose time is not over, and remove one whose time is."""
        with contextlib.suppress(FileNotFoundError, DamagedValueError):
            file = ValueFile(self._files, path)
            head = file.head()
            if now < head.expires_at:
                return head.key
            file.remove()
        return None


def _stat_unfinished(entry: os.DirEntry[str]) -> os.stat_result:
    """Look at a temporary file, or at the value that it has become since the directory was read."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return Path(entry.path[: -len(entry.name)] + entry.name.partition(".")[0]).stat()


def _reserve(descriptor: int, size: int) -> None:
    """Make a new file as long as it will be, with room for it where the system can.

    A full disk is then found before anything is written. And on ext4, which puts a file's delayed blocks on the disk
    when it is renamed over another one, replacing 1 MB takes 0.14 ms instead of 2.7 (20 MB: 3.4 instead of 30).
    """
    if sys.platform == "linux":
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        else:
            return
    os.ftruncate(descriptor, size)


def _try_lock(descriptor: int) -> None:
    # The lock is this opening's, so it parts threads as well; the kernel releases it when the process dies.
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
