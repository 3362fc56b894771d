"""The store in plain files, shared by any number of processes on one machine. Here is all of its disk format.

::

    <directory>/lock                          held (flock) by whoever evicts; its mtime is the time of the last sweep
    <directory>/tally                         one byte for each 4 KB that is held, or was since the last look
    <directory>/ab/<sha256 of the key>        one value; its mtime is the time of its last use
    <directory>/ab/<sha256 of the key>.*.tmp  a value being written

    a file: magic "sfumato", version (1 byte), CRC-32 of the next three and the key (4),
            length of the key (4), end of its time in Unix seconds (8, a double), length of the value (8), key, value

Rule 1: a value is written beside its place and moved there by ``os.replace``, so a reader sees an old value, a new one
or none. Nothing is synced to the disk, and the value's bytes are not summed here: what a power cut tears or a disk
flips in them, the digest finds that a picture's entry carries (a second sum cost a fifth of a lookup).
Rule 2: readers and writers wait for nobody. Only eviction takes the lock, and it gives way when somebody else is at it
(`sfumato.cache.tally`).
Rule 3: nothing that does not bear the name of a value or of a temporary file is ever removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import struct
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from anyio import to_thread

from sfumato.cache.budget import Held
from sfumato.cache.store import DamagedValueError, StoreStats
from sfumato.cache.tally import Tally
from sfumato.wire.payload import Piece, size_of

_STALE_TEMP_SECONDS = 900.0
_MAGIC, _VERSION = b"sfumato", 1
_GUARD = struct.Struct(">7sBI")
_SHAPE = struct.Struct(">IdQ")
_SHARD_NAME = re.compile(r"[0-9a-f]{2}")
_VALUE_NAME = re.compile(r"[0-9a-f]{64}")
_TEMP_NAME = re.compile(r"[0-9a-f]{64}\.[0-9A-Za-z_]+\.tmp")
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC


class FilesystemStore:
    """Keep values in files, the least recently used making room.

    All work is done in threads. Every method raises ``OSError`` when the disk refuses.

    Args:
        directory: Made with mode 0700 at the first write, and again whenever it is gone.
        max_bytes: The budget for all files, shared by every process that works on the directory.
        clock: Unix seconds.
    """

    def __init__(self, directory: Path, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._tally = Tally(directory, max_bytes, look=self._look, sweep=self._live_keys, try_lock=_try_lock)

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None when there is none or its time is over; an expired file is removed.

        Raises:
            DamagedValueError: The file was foreign, of another key or cut short; it has been removed.
        """
        return await to_thread.run_sync(self._get, key)

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        """Make room for the *value* and store it; True when it is kept.

        It is not when the store is full while somebody else is evicting: then it would exceed the budget or wait.
        No temporary file stays when the disk refuses, nor when the caller is cancelled: the thread ends what it began.
        """
        return await to_thread.run_sync(self._set, key, value, expires_in)

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
        """Do nothing: no file is open between calls."""

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._directory / digest[:2] / digest

    def _get(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        with file:
            now = self._clock()
            try:
                head = _read_head(file)
                value = _read_value(file, head, key) if now < head.expires_at else None
            except DamagedValueError:
                _unlink_same(path, file)
                raise
            if value is None:
                _unlink_same(path, file)
            else:
                # A disk that has become read-only still serves; only the order of use stands still.
                with contextlib.suppress(OSError):
                    os.utime(file.fileno(), (now, now))
        return value

    def _set(self, key: str, value: Sequence[Piece], expires_in: float | None) -> bool:
        path, now = self._path(key), self._clock()
        expires_at = math.inf if expires_in is None else now + expires_in
        head = _build_head(key, value, expires_at)
        size = len(head) + size_of(value)
        if size > self._tally.max_bytes or expires_at <= now or not self._tally.make_room(path, size, now):
            _unlink(path)
            return False
        self._write(path, (head, *value), size, now)
        return True

    def _write(self, path: Path, pieces: Sequence[Piece], size: int, now: float) -> None:
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
                _preallocate(descriptor, size)
                file.writelines(pieces)
                file.flush()
                os.utime(descriptor, (now, now))
            temp.replace(path)
        except BaseException:
            _unlink(temp)
            raise

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
                        stat = entry.stat(follow_symlinks=False)
                        if _VALUE_NAME.fullmatch(entry.name):
                            values.append(Held(stat.st_mtime, stat.st_size, entry.path))
                        elif not _TEMP_NAME.fullmatch(entry.name):
                            continue
                        elif stat.st_mtime < stale:
                            _unlink(Path(entry.path))
                        else:
                            unfinished_bytes += stat.st_size
        return values, unfinished_bytes

    def _live_keys(self) -> list[str]:
        now = self._clock()
        return [key for file in self._look()[0] if (key := _live_key(Path(file.path), now)) is not None]


class _Head(NamedTuple):
    key: bytes
    expires_at: float
    value_bytes: int


def _build_head(key: str, value: Sequence[Piece], expires_at: float) -> bytes:
    encoded = key.encode()
    shape = _SHAPE.pack(len(encoded), expires_at, size_of(value)) + encoded
    return _GUARD.pack(_MAGIC, _VERSION, zlib.crc32(shape)) + shape


def _read_head(file: BinaryIO) -> _Head:
    fixed = file.read(_GUARD.size + _SHAPE.size)
    if len(fixed) < _GUARD.size + _SHAPE.size:
        raise DamagedValueError("the file is too short")
    magic, version, checksum = _GUARD.unpack_from(fixed)
    key_bytes, expires_at, value_bytes = _SHAPE.unpack_from(fixed, _GUARD.size)
    size = len(fixed) + key_bytes + value_bytes
    # Compared before anything is read by these lengths: damaged ones may ask for more than there is memory.
    if (magic, version) != (_MAGIC, _VERSION) or size != os.fstat(file.fileno()).st_size:
        raise DamagedValueError("the file is foreign or cut short")
    key = file.read(key_bytes)
    if zlib.crc32(key, zlib.crc32(fixed[_GUARD.size :])) != checksum:
        raise DamagedValueError("the file is damaged")
    return _Head(key, expires_at, value_bytes)


def _read_value(file: BinaryIO, head: _Head, key: str) -> bytes:
    if head.key != key.encode():
        raise DamagedValueError("the file is of another key")
    # With its length the value is read in one call, into the bytes that are returned.
    value = file.read(head.value_bytes)
    if len(value) != head.value_bytes:
        raise DamagedValueError("the file was cut short meanwhile")
    return value


def _preallocate(descriptor: int, size: int) -> None:
    """Reserve the room of a new file where the system can.

    A full disk is then found before anything is written. And on ext4, which puts a file's delayed blocks on the disk
    when it is renamed over another one, replacing 1 MB takes 0.14 ms instead of 2.7 (20 MB: 3.4 instead of 30).
    """
    if sys.platform != "linux":
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _try_lock(descriptor: int) -> None:
    # The lock is this opening's, so it parts threads as well; the kernel releases it when the process dies.
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _unlink_same(path: Path, file: BinaryIO) -> None:
    """Remove *path* unless another process has meanwhile put a new file in the place of the open one."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            path.unlink()


def _live_key(path: Path, now: float) -> str | None:
    """Return the key of a file whose time is not over, and remove one whose time is."""
    with contextlib.suppress(FileNotFoundError, DamagedValueError), path.open("rb", buffering=0) as file:
        head = _read_head(file)
        if now < head.expires_at:
            return head.key.decode(errors="replace")
        _unlink_same(path, file)
    return None
