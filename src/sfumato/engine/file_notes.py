"""Notes between the processes of one machine: a file per note, named by its key's digest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from anyio import to_thread

from sfumato.engine.file_leases import is_at
from sfumato.engine.supervisor import Supervisor

_SWEEP_SECONDS = 60.0


class FileNotes:
    """Notes in a directory, which is made when it is first needed. For one event loop.

    Args:
        directory: Where the files are; nothing else may lie there.
        clock: Unix seconds.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._swept = 0.0
        self._sweeps = Supervisor()

    async def write(self, key: str, text: str, *, seconds: float) -> str:
        """Write *text* where nothing stands yet; return what stands there now.

        Raises:
            OSError: The directory cannot be used.
        """
        standing = await to_thread.run_sync(self._write, key, text, seconds)
        now = self._clock()
        if not self._sweeps and now - self._swept > _SWEEP_SECONDS:
            self._swept = now
            # Nobody waits for it: there may be tens of thousands of notes.
            self._sweeps.start(to_thread.run_sync(_sweep, self._directory, now))
        return standing

    async def aclose(self) -> None:
        """Wait for a sweep that is under way."""
        await self._sweeps.settle()

    def _write(self, key: str, text: str, seconds: float) -> str:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        now = self._clock()
        until = now + seconds
        path = self._directory / hashlib.sha256(key.encode()).hexdigest()
        descriptor, name = tempfile.mkstemp(dir=self._directory)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{until!r} {text}")
            # So a sweep need not open what is not over.
            os.utime(name, (until, until))
            for _ in range(3):
                try:
                    # A link is made whole or not at all, and never over what stands there.
                    os.link(name, path)
                except FileExistsError:
                    standing = _read(path, now)
                    if standing is not None:
                        return standing
                    _remove(path, now)
                else:
                    return text
            return text
        finally:
            Path(name).unlink(missing_ok=True)


def _sweep(directory: Path, now: float) -> None:
    """Remove what has been over for a while; a file that cannot be removed is no reason to leave the others."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > _SWEEP_SECONDS:
                    _remove(path, now)


def _remove(path: Path, now: float) -> None:
    """Remove a note that is over, and never a fresh one that was written there meanwhile.

    Whoever removes a file has locked it and found it in its place: of several that saw the old note one removes it.
    """
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if _parse(file.read(), now) is None and is_at(path, file.fileno()):
            path.unlink()


def _read(path: Path, now: float) -> str | None:
    """Return the note, None when there is none, or its time is over, or it is damaged."""
    try:
        return _parse(path.read_bytes(), now)
    except OSError:
        return None


def _parse(content: bytes, now: float) -> str | None:
    try:
        until, _, text = content.decode().partition(" ")
        return text if float(until) > now else None
    except ValueError:
        return None
