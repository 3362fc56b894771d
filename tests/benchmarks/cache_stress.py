"""Many processes on one directory of files, some of them killed: what is served, kept and left behind.

::

    python -m tests.benchmarks.cache_stress [--seconds 60] [--processes 8] [--kill 3]

Fails when a torn or wrong picture was served, a cache operation failed, a process ended in an error, the budget was
exceeded, or a sweep left a temporary file behind.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.image_cache import CacheFault
from sfumato.wire.payload import raw_bytes
from tests.benchmarks.measuring import percentile
from tests.benchmarks.stress_worker import BUDGET_BYTES, KEYS, MEGABYTE, is_content, open_cache
from tests.cache.contract import sample_request

_SAMPLE_SECONDS = 0.05
_LIFE_SECONDS = (0.8, 3.0)
_GRACE_SECONDS = 30
_HOUR_SECONDS = 3600.0


@dataclasses.dataclass(slots=True)
class Figures:
    """What was seen."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    lookup_seconds: list[float] = dataclasses.field(default_factory=list)
    exit_codes: Counter[int] = dataclasses.field(default_factory=Counter)
    kills: int = 0
    peak_bytes: int = 0
    samples: int = 0
    temps_left_by_kills: int = 0
    temps_after_sweep: int = 0
    bytes_after_look: int = 0
    entries_checked: int = 0

    def violations(self) -> list[str]:
        """Name everything that must not be."""
        unexpected = {code: count for code, count in self.exit_codes.items() if code not in (0, -signal.SIGKILL)}
        found = {
            f"{self.counts['wrong']} torn or wrong pictures served": self.counts["wrong"],
            f"faults: {dict(self.faults)}": self.faults.total(),
            f"processes ended with {unexpected}": len(unexpected),
            f"{self.peak_bytes:,} bytes at the peak": self.peak_bytes > BUDGET_BYTES,
            f"{self.bytes_after_look:,} bytes after the next look": self.bytes_after_look > BUDGET_BYTES,
            f"{self.temps_after_sweep} temporary files after the sweep": self.temps_after_sweep,
            "nothing was looked up, or nothing evicted": not self.counts["hits"] or self.peak_bytes < BUDGET_BYTES // 2,
        }
        return [text for text, violated in found.items() if violated]


class Run:
    """One run: processes on a directory, killed and started again."""

    def __init__(self, directory: Path, *, seconds: float, processes: int, victims: int) -> None:
        self._cache = directory / "cache"
        self._reports = directory / "reports"
        self._reports.mkdir()
        self._until = time.monotonic() + seconds
        self._running = [self._start() for _ in range(processes)]
        self._kill_at = [time.monotonic() + random.uniform(*_LIFE_SECONDS) for _ in range(victims)]
        self.figures = Figures()

    def play(self) -> Figures:
        """Let it run, then look at what is left."""
        try:
            while time.monotonic() < self._until:
                self._kill_some()
                self._sample()
                time.sleep(_SAMPLE_SECONDS)
            for process in self._running:
                self.figures.exit_codes[process.wait(_GRACE_SECONDS)] += 1
        finally:
            for process in self._running:
                process.kill()
        self._read_reports()
        asyncio.run(self._look_at_the_rest())
        return self.figures

    def _start(self) -> subprocess.Popen[bytes]:
        report = self._reports / f"{time.monotonic_ns()}.jsonl"
        arguments = [str(self._cache), str(report), str(self._until)]
        return subprocess.Popen([sys.executable, "-m", "tests.benchmarks.stress_worker", *arguments])

    def _kill_some(self) -> None:
        now = time.monotonic()
        for victim, due in enumerate(self._kill_at):
            if now < due or now > self._until - _LIFE_SECONDS[0]:
                continue
            process = self._running[victim]
            process.kill()
            self.figures.exit_codes[process.wait()] += 1
            self.figures.kills += 1
            self._running[victim] = self._start()
            self._kill_at[victim] = now + random.uniform(*_LIFE_SECONDS)

    def _sample(self) -> None:
        values, _ = self._files()
        self.figures.peak_bytes = max(self.figures.peak_bytes, values)
        self.figures.samples += 1

    def _files(self) -> tuple[int, int]:
        """Return the bytes in values and the number of temporary files."""
        size = temps = 0
        for shard in self._cache.glob("??"):
            with os.scandir(shard) as entries:
                for entry in entries:
                    try:
                        found = entry.stat()
                    except FileNotFoundError:
                        continue
                    temps += entry.name.endswith(".tmp")
                    size += 0 if entry.name.endswith(".tmp") else found.st_size
        return size, temps

    def _read_reports(self) -> None:
        for report in self._reports.iterdir():
            # A killed process may have been writing its last line.
            lines = report.read_text().split("\n")[:-1]
            last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
            self.figures.counts.update(last.get("counts", {}))
            self.figures.faults.update(last.get("faults", {}))
            self.figures.lookup_seconds += last.get("lookup_seconds", [])

    async def _look_at_the_rest(self) -> None:
        _, self.figures.temps_left_by_kills = self._files()
        # In an hour every temporary file is stale; all pictures live longer.
        await FilesystemStore(self._cache, BUDGET_BYTES, clock=lambda: time.time() + _HOUR_SECONDS).stats()
        _, self.figures.temps_after_sweep = self._files()
        # The first write of a process looks and evicts.
        await FilesystemStore(self._cache, BUDGET_BYTES).set("one more", [b"value"], expires_in=60)
        self.figures.bytes_after_look, _ = self._files()
        faults: list[CacheFault] = []
        cache = open_cache(self._cache, faults)
        for number in range(KEYS):
            image = await cache.lookup(sample_request(f"prompt {number}"), 0)
            if image is not None:
                self.figures.entries_checked += 1
                self.figures.counts["wrong"] += not is_content(number, raw_bytes(image.picture))
        self.figures.faults.update(f"{fault.operation} {fault.reason}" for fault in faults)


def main() -> int:
    """Run the test; return 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cache_stress")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kill", type=int, default=3, help="how many of them are killed again and again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sfumato-stress-") as directory:
        run = Run(Path(directory), seconds=options.seconds, processes=options.processes, victims=options.kill)
        figures = run.play()
    console = Console(width=120)
    console.print(_table(figures))
    violations = figures.violations()
    for violation in violations:
        console.print(f"[bold red]violated[/] {violation}")
    if not violations:
        console.print("[green]nothing violated[/]")
    return 1 if violations else 0


def _table(figures: Figures) -> Table:
    counts, times = figures.counts, figures.lookup_seconds or [0.0]
    table = Table(title="Stress", title_justify="left", show_header=False)
    hits = f"{counts['hits']:,} ({counts['hits'] / max(1, counts['lookups']):.0%})"
    milliseconds = " / ".join(f"{percentile(times, percent) * 1000:.2f}" for percent in (50, 95, 99))
    peak = f"{figures.peak_bytes / MEGABYTE:.1f} MB, {figures.peak_bytes / BUDGET_BYTES:.1%} of the budget"
    for name, value in {
        "lookups": f"{counts['lookups']:,}",
        "hits, every byte verified": hits,
        "hit p50 / p95 / p99 ms, processes that lived": milliseconds,
        "stores": f"{counts['stores']:,}",
        "not kept, the store being full": f"{counts['not kept']:,}",
        "torn or wrong pictures": str(counts["wrong"]),
        "faults": str(dict(figures.faults) or 0),
        "processes killed": str(figures.kills),
        "exit codes": str(dict(figures.exit_codes)),
        f"peak of {figures.samples} samples": peak,
        "after the next look": f"{figures.bytes_after_look / BUDGET_BYTES:.1%} of the budget",
        "temporary files left by kills": str(figures.temps_left_by_kills),
        "temporary files after the sweep": str(figures.temps_after_sweep),
        "entries verified at the end": str(figures.entries_checked),
    }.items():
        table.add_row(name, value)
    return table


if __name__ == "__main__":
    sys.exit(main())
