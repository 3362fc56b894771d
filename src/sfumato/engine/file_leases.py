"""Leases between the processes of one machine: a locked file per key, which the kernel frees when its holder dies."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from anyio import to_thread

from sfumato.engine.coordination import take, wait_until_free
from sfumato.engine.supervisor import Supervisor

_PAUSES_SECONDS = (0.01, 0.1)
_OPEN = os.O_RDWR | os.O_CLOEXEC


class FileLease:
    """A locked file.

    Args:
        path: The file.
        descriptor: Its locked descriptor, closed by `release`.
        jobs: Keeps a release whose caller was cancelled.
    """

    def __init__(self, path: Path, descriptor: int, jobs: Supervisor) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        self._jobs = jobs

    async def release(self) -> None:
        """Remove the file and unlock it, in this order: who opened it meanwhile sees that it is gone."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            removing = self._jobs.start(to_thread.run_sync(_remove, self._path, descriptor))
            await asyncio.wait([removing])
            removing.result()


class FileLeases:
    """Leases in a directory that any number of processes share.

    Args:
        directory: Where the files are; created when first needed.
        sleep: Waits for seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._sleep = sleep
        self._jobs = Supervisor()

    async def acquire(self, key: str) -> FileLease | None:
        """Lock the file of *key* at once, None when another process (or flight) holds it.

        Raises:
            OSError: The directory cannot be used.
        """
        return await take(self._take(self._path(key)), self._jobs)

    async def wait(self, key: str, timeout_seconds: float) -> bool:
        """Wait until nobody holds the file of *key*, False when the time passed first.

        Raises:
            OSError: The directory cannot be used.
        """
        path = self._path(key)
        return await wait_until_free(
            lambda: to_thread.run_sync(_is_free, path),
            timeout_seconds=timeout_seconds,
            pauses=_PAUSES_SECONDS,
            clock=self._clock,
            sleep=self._sleep,
        )

    async def aclose(self) -> None:
        """Wait for what was left under way; a lease is closed by its own release."""
        await self._jobs.settle()

    async def _take(self, path: Path) -> FileLease | None:
        descriptor = await to_thread.run_sync(_lock, path)
        return None if descriptor is None else FileLease(path, descriptor, self._jobs)

    def _path(self, key: str) -> Path:
        return self._directory / f"{hashlib.sha256(key.encode()).hexdigest()}.lease"


def _lock(path: Path) -> int | None:
    while True:
        try:
            descriptor = os.open(path, _OPEN | os.O_CREAT, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        # Its last holder removed it between our open and our lock.
        os.close(descriptor)


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, _OPEN)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def is_at(path: Path, descriptor: int) -> bool:
    """Tell whether the file at *path* is the one that *descriptor* has open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(path: Path, descriptor: int) -> None:
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
