"""What a round measures, part by part; every part alternates between its contestants, there and back again."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.compare.arena import Standing
from tests.benchmarks.compare.loads import Target, during, probe
from tests.benchmarks.compare.probed import LAG_PATH
from tests.benchmarks.hits import Bench, measure_readers
from tests.benchmarks.measuring import percentile

Row = dict[str, Any]
Arena = Mapping[str, Standing]


@dataclasses.dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        sizes: Names of sizes.
        connections: At a time.
        gzip: Whether the client accepts it.
        seconds: Of a short load; slow cells take a multiple of it.
        full: Every contestant in every cell, not only where it tells something new.
    """

    sizes: tuple[str, ...] = ("10k", "1m", "8m", "20m")
    connections: tuple[int, ...] = (1, 8, 32)
    gzip: tuple[bool, ...] = (False, True)
    seconds: float = 2.0
    full: bool = False


_PICTURES = 7
Cell = tuple[str, int, bool]
_MAIN = ("direct", "serve", "native", "late")
_ASIDE = ("exporting", "storing", "provider")
_TOLD = {("10k", 1, False), ("1m", 8, False), ("8m", 8, False), ("20m", 32, False), ("8m", 1, True)}
# With gzip LiteLLM's native route takes a second for one 20 MB picture: at 8 connections none is done in time.
_NOT_GZIPPED = {("20m", 8), ("8m", 32), ("20m", 32), ("10k", 32), ("1m", 32)}
_LONGER = {("8m", 8): 1.5, ("8m", 32): 2.5, ("20m", 1): 1.5, ("20m", 8): 2.5, ("20m", 32): 5.0}


def misses(arena: Arena, effort: Effort, number: int) -> Iterator[Row]:
    """Yield what every request costs that makes a picture."""
    cells = [
        (size, connections, gzip)
        for gzip in effort.gzip
        for size in effort.sizes
        for connections in effort.connections
        if effort.full or not (gzip and (size, connections) in _NOT_GZIPPED)
    ]
    for cell in cells:
        names = [
            name for name in (*_MAIN, *_ASIDE) if name in arena and (effort.full or name in _MAIN or cell in _TOLD)
        ]
        for name in _turn(names, number):
            yield _load(arena[name], cell, effort, number)


def _load(standing: Standing, cell: Cell, effort: Effort, number: int, *, fresh: bool = True) -> Row:
    size, connections, gzip = cell
    seconds = effort.seconds * (_LONGER.get((size, connections), 1.0) if fresh and standing.name != "direct" else 1.0)
    sample = standing.load(size, connections=connections, seconds=seconds, gzip=gzip, fresh=fresh)
    told = {"contestant": standing.name, "size": size, "connections": connections, "gzip": gzip, "round": number}
    return told | dataclasses.asdict(sample)


def hits(arena: Arena, effort: Effort, number: int) -> Iterator[Row]:
    """Yield what a hit costs, beside a static file of the same bytes."""
    names = [name for name in ("hits", "floor", "nginx") if name in arena]
    sizes = [size for size in effort.sizes if size != "20m" or effort.full]
    for size in sizes:
        if "hits" in arena:
            answer = arena["hits"].prime(size)
            # The directory is shared by the static servers.
            (arena["hits"].process.log.parent / "files" / size).write_bytes(answer)
        for connections in (1, 8):
            for name in _turn(names, number):
                yield _load(arena[name], (size, connections, False), effort, number, fresh=False)


def neighbours(arena: Arena, effort: Effort, number: int) -> Iterator[Row]:
    """Yield how long a tiny request waits in a process that has eight 20 MB pictures in flight."""
    seconds = effort.seconds * 3
    for name in _turn([name for name in ("native", "late", "serve") if name in arena], number):
        standing = arena[name]
        quiet = Target(standing.url + standing.contestant.health, method="GET")

        def flow(standing: Standing = standing) -> None:
            standing.load("20m", connections=8, seconds=seconds + 2)

        def small(count: int, standing: Standing = standing) -> str:
            return standing.contestant.body("10k", f"{number}-{count}")

        for kind, target, body, every in (
            ("health", quiet, lambda _: "", 0.02),
            ("10k", standing.target("10k"), small, 0.1),
        ):
            standing.process.settle()
            alone = asyncio.run(probe(target, body, every=every, seconds=seconds / 2))
            waits = asyncio.run(during(probe(target, body, every=every, seconds=seconds), flow))
            yield {
                "contestant": name,
                "request": kind,
                "round": number,
                **dataclasses.asdict(waits),
                **{f"alone_{key}": value for key, value in dataclasses.asdict(alone).items()},
            }


def stalls(arena: Arena, effort: Effort, number: int) -> Iterator[Row]:
    """Yield for how long the event loop of ours did nothing else, picture by picture."""
    if "probed" not in arena:
        return
    standing = arena["probed"]
    for size in effort.sizes if effort.full else effort.sizes[-1:]:
        for kind in ("idle", "miss", "hit"):
            late, busy = zip(
                *(_stall(standing, size, kind, f"{number}-{count}") for count in range(_PICTURES)), strict=True
            )
            yield {
                "size": size,
                "kind": kind,
                "round": number,
                "late_p50": round(percentile(list(late), 50), 2),
                "late_max": round(max(late), 2),
                "busy_p50": round(percentile(list(busy), 50), 2),
                "busy_max": round(max(busy), 2),
            }


def _stall(standing: Standing, size: str, kind: str, series: str) -> tuple[float, float]:
    lag = standing.url + LAG_PATH
    standing.process.settle()
    httpx.get(lag)
    if kind != "idle":
        standing.ask(size, series)
    # What is stored after the answer counts.
    standing.process.settle()
    figures = httpx.get(lag).json()
    return float(figures["late"]), float(figures["busy"])


def readers(directory: Path, effort: Effort, number: int) -> Iterator[Row]:
    """Yield what 500 slow readers of 8 MB hits hold, and what they cost others."""
    home = directory / f"readers-{number}"
    home.mkdir()
    with Bench(home) as bench:
        yield {"round": number} | asyncio.run(measure_readers(bench, 8, readers=500, seconds=effort.seconds * 2))


Part = Callable[[Arena, Effort, int], Iterator[Row]]
PARTS: dict[str, tuple[Part, tuple[str, ...]]] = {
    "misses": (misses, (*_MAIN, *_ASIDE)),
    "hits": (hits, ("hits", "floor", "nginx")),
    "neighbours": (neighbours, ("native", "late", "serve")),
    "stalls": (stalls, ("probed",)),
}
"""What is measured on contestants that run all at once, and which ones it needs."""


def _turn(names: list[str], number: int) -> list[str]:
    return names if number % 2 == 0 else names[::-1]
