"""The store in plain files, shared by any number of processes on one machine. Here is all of its disk format.

::

    <directory>/lock                          held (flock) by whoever sweeps and evicts
    <directory>/ab/<sha256 of the key>        one value; its mtime is the time of its last use
    <directory>/ab/<sha256 of the key>.*.tmp  a value being written

    a file: magic "sfumato", version (1 byte), CRC-32 of all that follows (4),
            length of the key (4), end of its time in Unix seconds (8, a double), length of the value (8), key, value

Rule 1: a value is written beside its place and moved there by ``os.replace``, so a reader sees an old value, a new one
or none. Nothing is synced to the disk: what a power cut tears, the checksum finds.
Rule 2: readers and writers take no lock. Only eviction does, and it gives way when somebody else is at it.
Rule 3: nothing that does not bear the name of a value or of a temporary file is ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import re
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from anyio import to_thread

from sfumato.cache.store import DamagedValueError, StoreStats
from sfumato.wire.payload import Piece, size_of

# Eviction goes down to this share of the budget, so that it is not needed again at the next write.
_KEPT_SHARE = 0.9
# After writing this share a process looks at all files (41 ms for 10,000), for only so it sees what others wrote.
_UNSEEN_SHARE = 1 / 64
# Expired values are looked for by opening every file, so rarely; until then the budget bounds them.
_SWEEP_SECONDS = 3600.0
_STALE_TEMP_SECONDS = 900.0
_MAGIC, _VERSION = b"sfumato", 1
_GUARD = struct.Struct(">7sBI")
_SHAPE = struct.Struct(">IdQ")
_SHARD_NAME = re.compile(r"[0-9a-f]{2}")
_VALUE_NAME = re.compile(r"[0-9a-f]{64}")
_TEMP_NAME = re.compile(r"[0-9a-f]{64}\.[0-9A-Za-z_]+\.tmp")


class FilesystemStore:
    """Keep values in files, the least recently used making room.

    All work is done in threads. Every method raises ``OSError`` when the disk refuses.

    Args:
        directory: Made with mode 0700 at the first write, and again whenever it is gone.
        max_bytes: The budget for all files, shared by every process that works on the directory; between two looks of
            a process they may exceed it by 1/64 for each process that writes.
        clock: Unix seconds.
    """

    def __init__(self, directory: Path, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        # Guards the bytes in the directory at the last look (None before it) and those written by this process since.
        self._numbers = threading.Lock()
        self._seen_bytes: int | None = None
        self._unseen_bytes = 0
        self._swept_at = -math.inf
        self._evictions = 0

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None when there is none or its time is over; an expired file is removed.

        Raises:
            DamagedValueError: The file was damaged or foreign; it has been removed.
        """
        return await to_thread.run_sync(self._get, key)

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        """Store the *value*, then evict when the budget may be exceeded; True when it is kept.

        No temporary file stays when the disk refuses, nor when the caller is cancelled: the thread ends what it began.
        """
        return await to_thread.run_sync(self._set, key, value, expires_in)

    async def delete(self, key: str) -> bool:
        """Remove a value; True when there was a file, expired or not."""
        return await to_thread.run_sync(_unlink, self._path(key))

    async def clear(self) -> int:
        """Remove every value; return how many there were."""
        return await to_thread.run_sync(lambda: sum(_unlink(file.path) for file in self._look()))

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys whose time is not over, removing the others' files; damaged ones are passed over."""
        for key in await to_thread.run_sync(self._live_keys):
            yield key

    async def stats(self) -> StoreStats:
        """Look at the whole directory and count."""
        held = await to_thread.run_sync(self._look)
        size = sum(file.size for file in held)
        return StoreStats(entries=len(held), size_bytes=size, capacity_bytes=self._max_bytes, evictions=self._evictions)

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
                header = _read_header(file)
                value = _read_value(file, header, key) if now < header.expires_at else None
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
        size = _GUARD.size + _SHAPE.size + len(key.encode()) + size_of(value)
        if size > self._max_bytes or expires_at <= now:
            _unlink(path)
            return False
        self._write(path, (_build_header(key, value, expires_at), *value), now)
        with self._numbers:
            # A replaced or removed file is counted until the next look: too much is the safe side.
            self._unseen_bytes += size
            unseen, seen = self._unseen_bytes, self._seen_bytes
        if seen is None or seen + unseen > self._max_bytes or unseen > self._max_bytes * _UNSEEN_SHARE:
            self._tidy()
        return True

    def _write(self, path: Path, pieces: Sequence[Piece], now: float) -> None:
        # One by one: `parents=True` would give the directory the default mode.
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, temp = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - Path opens no descriptors
                file.writelines(pieces)
            os.utime(temp, (now, now))
            os.replace(temp, path)  # noqa: PTH105 - mkstemp gives text
        except BaseException:
            _unlink(Path(temp))
            raise

    def _tidy(self) -> None:
        """Evict down to the kept share when over the budget, and sweep what has expired when it is time."""
        with self._sole_evictor() as sole:
            if not sole:
                return
            unseen, now = self._unseen_bytes, self._clock()
            if now - self._swept_at >= _SWEEP_SECONDS:
                self._swept_at = now
                self._live_keys()
            files = self._look()
            total = sum(file.size for file in files)
            goal = self._max_bytes * _KEPT_SHARE if total > self._max_bytes else total
            for file in sorted(files):
                if total <= goal:
                    break
                total -= file.size
                self._evictions += _unlink(file.path)
            with self._numbers:
                # What other threads wrote during the look may or may not be in the total: it stays counted.
                self._seen_bytes = total
                self._unseen_bytes -= unseen

    @contextlib.contextmanager
    def _sole_evictor(self) -> Iterator[bool]:
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # The lock is this opening's, so it parts threads as well; the kernel releases it when the process dies.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)

    def _shards(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                if _SHARD_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path)

    def _look(self) -> list[_File]:
        """List the files of values, removing temporary files that their writers left behind."""
        files: list[_File] = []
        stale = self._clock() - _STALE_TEMP_SECONDS
        for shard in self._shards():
            with contextlib.suppress(FileNotFoundError), os.scandir(shard) as entries:
                for entry in entries:
                    # Any file may be gone by now: other processes evict, too.
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat(follow_symlinks=False)
                        if _VALUE_NAME.fullmatch(entry.name):
                            files.append(_File(stat.st_mtime, stat.st_size, Path(entry.path)))
                        elif _TEMP_NAME.fullmatch(entry.name) and stat.st_mtime < stale:
                            _unlink(Path(entry.path))
        return files

    def _live_keys(self) -> list[str]:
        now = self._clock()
        return [key for file in self._look() if (key := _live_key(file.path, now)) is not None]


class _File(NamedTuple):
    used_at: float
    size: int
    path: Path


class _Header(NamedTuple):
    key: bytes
    expires_at: float
    checksum: int
    checksum_so_far: int


def _build_header(key: str, value: Sequence[Piece], expires_at: float) -> bytes:
    encoded = key.encode()
    shape = _SHAPE.pack(len(encoded), expires_at, size_of(value)) + encoded
    checksum = zlib.crc32(shape)
    for piece in value:
        checksum = zlib.crc32(piece, checksum)
    return _GUARD.pack(_MAGIC, _VERSION, checksum) + shape


def _read_header(file: BinaryIO) -> _Header:
    guard, shape = file.read(_GUARD.size), file.read(_SHAPE.size)
    if len(guard) + len(shape) < _GUARD.size + _SHAPE.size:
        raise DamagedValueError("the file is too short")
    magic, version, checksum = _GUARD.unpack(guard)
    key_bytes, expires_at, value_bytes = _SHAPE.unpack(shape)
    size = _GUARD.size + _SHAPE.size + key_bytes + value_bytes
    # Compared before anything is read by these lengths: damaged ones may ask for more than there is memory.
    if (magic, version) != (_MAGIC, _VERSION) or size != os.fstat(file.fileno()).st_size:
        raise DamagedValueError("the file is foreign or cut short")
    key = file.read(key_bytes)
    return _Header(key, expires_at, checksum, zlib.crc32(shape + key))


def _read_value(file: BinaryIO, header: _Header, key: str) -> bytes:
    value = file.read()
    if header.key != key.encode() or zlib.crc32(value, header.checksum_so_far) != header.checksum:
        raise DamagedValueError("the file is damaged")
    return value


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
        header = _read_header(file)
        if now < header.expires_at:
            return header.key.decode(errors="replace")
        _unlink_same(path, file)
    return None
