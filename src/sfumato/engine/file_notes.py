"""Notes between the processes of one machine: a file per note, named by its key's digest."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from anyio import to_thread

_SWEEP_SECONDS = 60.0


class FileNotes:
    """Notes in a directory, which is made when it is first needed.

    Args:
        directory: Where the files are; nothing else may lie there.
        clock: Unix seconds.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._swept = 0.0

    async def write(self, key: str, text: str, *, seconds: float) -> str:
        """Write *text* where nothing stands yet; return what stands there now.

        Raises:
            OSError: The directory cannot be used.
        """
        return await to_thread.run_sync(self._write, key, text, seconds)

    def _write(self, key: str, text: str, seconds: float) -> str:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        now = self._clock()
        if now - self._swept > _SWEEP_SECONDS:
            self._swept = now
            self._sweep(now)
        path = self._directory / hashlib.sha256(key.encode()).hexdigest()
        descriptor, name = tempfile.mkstemp(dir=self._directory)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{now + seconds!r} {text}")
            for _ in range(3):
                try:
                    # A link is made whole or not at all, and never over what stands there.
                    os.link(name, path)
                except FileExistsError:
                    standing = _read(path, now)
                    if standing is not None:
                        return standing
                    path.unlink(missing_ok=True)
                else:
                    return text
            return text
        finally:
            Path(name).unlink(missing_ok=True)

    def _sweep(self, now: float) -> None:
        for path in self._directory.iterdir():
            if _read(path, now) is None and now - path.stat().st_mtime > _SWEEP_SECONDS:
                path.unlink(missing_ok=True)


def _read(path: Path, now: float) -> str | None:
    """Return the note, None when there is none, or its time is over, or it is damaged."""
    try:
        until, _, text = path.read_text(encoding="utf-8").partition(" ")
        return text if float(until) > now else None
    except (OSError, ValueError):
        return None
