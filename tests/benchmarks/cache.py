"""What a lookup and a store cost beside the plain cost of the same bytes, per backend and size.

::

    python -m tests.benchmarks.cache [--sizes 0.1,1,8,20] [--backends memory,filesystem,redis,s3] [--rounds N]
                                     [--json FILE]

All measurements of a round are taken in turn, so a slow moment of the machine meets all of them; a ratio is the median
of the rounds' ratios. ``plain`` is what the backend costs bare: a file's read and digest, a write and ``os.replace``, a
raw redis GET or SET, a raw object's get or put. ``work`` adds to a plain write what no store can leave out: decoding
the base64 and the digest. ``stall`` is by how much the event loop was late, beside its lateness while nothing was done.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path

import pybase64
from anyio import to_thread
from rich.console import Console
from rich.table import Table

from sfumato.cache.image_cache import ImageCache
from sfumato.images.request import GeneratedImage, ImageRequest, Picture
from sfumato.wire.payload import Piece, join, raw_bytes
from tests.benchmarks.backends import NAMES, Backend, MissingError, opened
from tests.benchmarks.measuring import Work, median_ratio, peak_growth, percentile, stalled, timed
from tests.cache.contract import sample_image, sample_request

MEGABYTE = 1_000_000
# Gemini's answer arrives in reads of this size, and so do the pieces of its picture.
_PIECE_BYTES = 64 * 1024
_TTL_SECONDS = 3600.0
_LARGE_MB = 4
_WEIGHINGS = 3
_PAUSE_SECONDS = 0.5
_WIDTH = 150


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """The figures of one operation on one backend at one size; times in milliseconds, memory in megabytes."""

    backend: str
    size_mb: float
    operation: str
    rounds: int
    failed: int
    p50: float
    p95: float
    plain_p50: float
    plain_p95: float
    plain_ratio: float
    work_ratio: float | None
    stall_p50: float
    stall_max: float
    idle_stall_max: float
    memory_mb: float | None


@dataclasses.dataclass(slots=True)
class Series:
    """What was measured of one operation, round by round."""

    ours: list[float] = dataclasses.field(default_factory=list)
    plain: list[float] = dataclasses.field(default_factory=list)
    work: list[float] = dataclasses.field(default_factory=list)
    stalls: list[float] = dataclasses.field(default_factory=list)
    idle_stalls: list[float] = dataclasses.field(default_factory=list)
    growths: list[int] = dataclasses.field(default_factory=list)
    failed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """What is measured: by the cache, the plain way, the plain way with the work; and the new picture it leaves."""

    name: str
    ours: Work
    plain: Work
    work: Work | None = None
    forget: str | None = None


class FailedError(Exception):
    """The cache did not do what was measured."""


class Subject:
    """One backend at one size: its operations, each beside the plain way."""

    def __init__(self, backend: Backend, size_mb: float) -> None:
        self.backend, self.size_mb = backend, size_mb
        self.cache = ImageCache(backend.store, ttl_seconds=_TTL_SECONDS)
        self.raw = os.urandom(round(size_mb * MEGABYTE))
        self.encoded = pybase64.b64encode(self.raw)
        self.series: defaultdict[str, Series] = defaultdict(Series)
        self._number = 0

    async def prepare(self) -> None:
        """Keep one picture that is looked up in every round, and one that is replaced."""
        for name in ("kept", "replaced"):
            await self._store(f"{name} {self.size_mb}", self._from_base64())
            await self.backend.put(f"{name} {self.size_mb}", self.raw)

    async def round(self) -> None:
        """Time every operation once, and see how it holds up the event loop."""
        self._number += 1
        for operation in self._operations():
            await self._time(operation, self.series[operation.name])

    async def weigh(self) -> None:
        """Measure every operation's memory once; comes after all rounds, for it slows what follows."""
        self._number += 1
        for operation in self._operations():
            with contextlib.suppress(FailedError):
                growth = await peak_growth(operation.ours)
                self.series[operation.name].growths += [] if growth is None else [growth]
                await self._forget(operation)

    def rows(self) -> list[Row]:
        """Return the figures."""
        return [self._row(operation, series) for operation, series in self.series.items() if series.ours]

    def _operations(self) -> list[Operation]:
        kept, replaced, new = (f"{name} {self.size_mb}" for name in ("kept", "replaced", f"new {self._number}"))
        for prompt in (kept, replaced, new):
            _request(prompt)
        base64, raw = self._from_base64(), self._from_raw()
        return [
            Operation("lookup", lambda: self._lookup(kept), lambda: self.backend.get(kept)),
            Operation("store", lambda: self._store(new, base64), *self._plain(new, base64), forget=new),
            Operation("store raw", lambda: self._store(new, raw), *self._plain(new, raw), forget=new),
            Operation("replace", lambda: self._store(replaced, base64), *self._plain(replaced, base64)),
        ]

    async def _time(self, operation: Operation, series: Series) -> None:
        order = [(series.ours, operation.ours), (series.plain, operation.plain)]
        order += [] if operation.work is None else [(series.work, operation.work)]
        turn = self._number % len(order)
        taken: list[tuple[list[float], float]] = []
        try:
            for times, work in order[turn:] + order[:turn]:
                taken.append((times, await timed(work)))
                await self._forget(operation)
            taken.append((series.stalls, await stalled(operation.ours)))
            await self._forget(operation)
        except FailedError:
            # A fault is no figure: it is counted, and the round's other figures of the operation go with it.
            series.failed += 1
            await asyncio.sleep(_PAUSE_SECONDS)
            return
        for times, seconds in taken:
            times.append(seconds)
        series.idle_stalls.append(await stalled(lambda: asyncio.sleep(series.ours[-1])))

    async def _forget(self, operation: Operation) -> None:
        if operation.forget:
            await self.backend.store.delete(self.cache.key(_request(operation.forget), 0))
            with contextlib.suppress(FileNotFoundError, KeyError):
                await self.backend.remove(operation.forget)

    def _plain(self, key: str, image: GeneratedImage) -> tuple[Work, Work]:
        async def work() -> None:
            encoded = image.picture.encoded
            raw = self.raw if encoded is None else pybase64.b64decode(join(encoded), validate=True)
            hashlib.sha256(raw).hexdigest()
            await self.backend.put(key, raw)

        return lambda: self.backend.put(key, self.raw), work

    async def _store(self, prompt: str, image: GeneratedImage) -> None:
        if not await self.cache.store(_request(prompt), image):
            raise FailedError("the picture was not kept")

    async def _lookup(self, prompt: str) -> None:
        found = await self.cache.lookup(_request(prompt), 0)
        # A large picture stays where it is stored until it is read.
        if found is None or len(await to_thread.run_sync(raw_bytes, found.picture)) != len(self.raw):
            raise FailedError("the picture was not found")

    def _from_base64(self) -> GeneratedImage:
        view = memoryview(self.encoded)
        pieces: tuple[Piece, ...] = tuple(
            view[start : start + _PIECE_BYTES] for start in range(0, len(view), _PIECE_BYTES)
        )
        picture = Picture(encoded=pieces, mime_type="image/jpeg", width=1, height=1)
        return dataclasses.replace(sample_image(), picture=picture, created=time.time())

    def _from_raw(self) -> GeneratedImage:
        picture = Picture(raw=self.raw, mime_type="image/jpeg", width=1, height=1)
        return dataclasses.replace(sample_image(), picture=picture, created=time.time())

    def _row(self, operation: str, series: Series) -> Row:
        return Row(
            backend=self.backend.name,
            size_mb=self.size_mb,
            operation=operation,
            rounds=len(series.ours),
            failed=series.failed,
            p50=_ms(statistics.median(series.ours)),
            p95=_ms(percentile(series.ours, 95)),
            plain_p50=_ms(statistics.median(series.plain)),
            plain_p95=_ms(percentile(series.plain, 95)),
            plain_ratio=round(median_ratio(series.ours, series.plain), 2),
            work_ratio=round(median_ratio(series.ours, series.work), 2) if series.work else None,
            stall_p50=_ms(statistics.median(series.stalls)),
            stall_max=_ms(max(series.stalls)),
            idle_stall_max=_ms(max(series.idle_stalls)),
            memory_mb=round(statistics.median(series.growths) / MEGABYTE, 1) if series.growths else None,
        )


async def measure(
    names: list[str], sizes: list[float], rounds: int, console: Console
) -> tuple[list[Row], dict[str, str]]:
    """Return the figures, and what is missing of each backend that could not be measured."""
    subjects: list[Subject] = []
    missing: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            try:
                backend = await stack.enter_async_context(opened(name))
            except MissingError as error:
                missing[name] = str(error)
                continue
            subjects += [Subject(backend, size) for size in sizes]
        for subject in subjects:
            await subject.prepare()
        with console.status("measuring") as status:
            for number in range(rounds):
                status.update(f"round {number + 1} of {rounds}")
                for subject in subjects:
                    # The large ones take long and vary little.
                    if subject.size_mb <= _LARGE_MB or number % 4 == 0:
                        await subject.round()
            status.update("weighing")
            for subject in subjects * _WEIGHINGS:
                await subject.weigh()
        return [row for subject in subjects for row in subject.rows()], missing


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cache", description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="0.1,1,8,20", help="megabytes, separated by commas")
    parser.add_argument("--backends", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=60, help="a quarter of them above 4 MB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    names = options.backends.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown backends: {', '.join(sorted(unknown))}")
    console = Console(width=_WIDTH)
    sizes = [float(size) for size in options.sizes.split(",")]
    rows, missing = asyncio.run(measure(names, sizes, options.rounds, console))
    console.print(_table(rows))
    console.print(_bars(rows))
    for name, reason in missing.items():
        console.print(f"[bold red]missing[/] {name}: {reason}")
    if options.json:
        figures = {"rows": [dataclasses.asdict(row) for row in rows], "missing": missing}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _table(rows: list[Row]) -> Table:
    table = Table(title="Milliseconds; ratios are medians of the rounds'", title_justify="left")
    for heading in ("backend", "MB", "operation"):
        table.add_column(heading)
    for heading in (
        "rounds",
        "p50",
        "p95",
        "plain p50",
        "plain p95",
        "x plain",
        "x work",
        "stall p50/max",
        "idle max",
        "MB held",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.backend,
            f"{row.size_mb:g}",
            row.operation,
            f"{row.rounds}" if row.failed == 0 else f"{row.rounds} [red]({row.failed} failed)[/]",
            *(f"{value:.2f}" for value in (row.p50, row.p95, row.plain_p50, row.plain_p95, row.plain_ratio)),
            "" if row.work_ratio is None else f"{row.work_ratio:.2f}",
            f"{row.stall_p50:.1f}/{row.stall_max:.1f}",
            f"{row.idle_stall_max:.1f}",
            "?" if row.memory_mb is None else f"{row.memory_mb:.1f}",
            end_section=row.operation == "replace",
        )
    return table


def _bars(rows: list[Row]) -> Table:
    """Set the figures beside the issue's bars."""
    table = Table(title="Bars", title_justify="left")
    for heading in ("backend", "what", "bar", "measured", "met"):
        table.add_column(heading)
    for row in rows:
        storing = row.operation.startswith(("store", "replace"))
        checks: list[tuple[str, float, float]] = []
        if row.size_mb == 1:
            checks.append(("p95 ms", 50 if storing else 10, row.p95))
            if row.backend == "filesystem":
                checks.append(("x plain", 1.5, row.plain_ratio))
                checks.append(("x work", 1.5, row.work_ratio or math.nan))
        if row.size_mb == 20:
            checks.append(("stall ms, median", 10, row.stall_p50))
        for what, bar, value in checks:
            if not math.isnan(value):
                met = "[green]yes[/]" if value <= bar else "[red]no[/]"
                name = f"{row.operation} {row.size_mb:g} MB: {what}"
                table.add_row(row.backend, name, f"{bar:g}", f"{value:.2f}", met)
    return table


@functools.cache
def _request(prompt: str) -> ImageRequest:
    # Resolving what a client asked is none of the cache's work.
    return sample_request(prompt)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


if __name__ == "__main__":
    main()
