"""Servers as processes: started, awaited, weighed by what the system knows of them, ended."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

_START_SECONDS = 180
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLED_SHARE = 0.05
_SETTLING_SECONDS = 0.25
_PATIENCE_SECONDS = 30.0


class Process:
    """A server and whatever it started.

    Args:
        command: What to run.
        environment: Variables beside this process's own, of which none configures a contestant.
        directory: Where it runs, and where its output goes.
        name: Of the file with its output.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path, name: str) -> None:
        prefixes = ("GEMINI_", "GOOGLE_", "CACHE_", "OTEL_", "LITELLM_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
        self.log = directory / f"{name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=inherited | dict(environment), cwd=directory, stdout=output, stderr=subprocess.STDOUT
            )

    def await_answer(self, url: str) -> None:
        """Wait until *url* answers, if only that it takes other methods.

        Raises:
            RuntimeError: It did not, or the process ended.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url, timeout=10).status_code < 500:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{url} does not answer: {self.log.read_text()[-2000:]}")

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far, of user and system."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / _TICKS

    def resident_mb(self) -> float:
        """Return the memory in use."""
        return self._status_mb("VmRSS")

    def peak_mb(self) -> float:
        """Return the most memory used since `forget_peak`."""
        return self._status_mb("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak begin at what is in use now."""
        for pid in self._pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def settle(self) -> None:
        """Wait until the process is idle: requests that were cut off may still be worked on."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        used = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(_SETTLING_SECONDS)
            now = self.cpu_seconds()
            if now - used <= _SETTLING_SECONDS * _SETTLED_SHARE:
                return
            used = now

    def end(self) -> None:
        """End the process, by force if it does not listen."""
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _status_mb(self, field: str) -> float:
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
                total += int(found[1]) if found else 0
        return total / 1000

    def _pids(self) -> Iterator[int]:
        waiting = [self._process.pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    waiting.extend(map(int, children.read_text().split()))
