"""What the command line's tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from sfumato.cli import main

Server = subprocess.Popen[str]
SFUMATO = (sys.executable, "-m", "sfumato.cli")


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def sfumato(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `sfumato` with arguments, in this process."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["sfumato", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        # The interpreter prints such a code to stderr and ends with 1.
        return Ended(1, out, err + code) if isinstance(code, str) else Ended(code or 0, out, err)

    return run


@contextmanager
def serving(*arguments: str, log: Path, env: Mapping[str, str] | None = None) -> Iterator[tuple[str, Server]]:
    """Run a command that serves; give the address that it prints, and the process, which is ended in any case."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*SFUMATO, *arguments], env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert " listens on http://" in line, log.read_text()
            yield line.split()[-1], process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()


def processes_with(marker: str) -> list[Path]:
    """Return the environments of the processes that have *marker* in theirs."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [place] if marker.encode() in place.read_bytes() else []
        except OSError:
            continue
    return found
