"""Compare sfumato with LiteLLM's native route, side by side in one run.

::

    python -m tests.benchmarks.compare [--quick] [--parts misses,hits] [--only serve,native] [--sizes 1m,8m]
        [--connections 1,8] [--gzip no] [--seconds S] [--rounds N] [--full] [--json FILE] [--chart FILE] [--tables FILE]

It starts everything itself and needs ``wrk``, and ``nginx`` for the limit of hits. A round has fresh processes, which
are up all at once; loads alternate between them, forwards in one round and backwards in the next. A figure is the
median over the rounds, a ratio the median of the rounds' ratios. ``--json`` keeps the other parts of a file that
exists, so a part can be measured anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.compare.arena import arena, check_all
from tests.benchmarks.compare.bars import bars
from tests.benchmarks.compare.chart import svg
from tests.benchmarks.compare.contestants import CONTESTANTS
from tests.benchmarks.compare.figures import Figures
from tests.benchmarks.compare.parts import PARTS, Effort, Row, readers
from tests.benchmarks.compare.tables import markdown

_READERS = "readers"
_MARK = "<!-- figures -->"
_GZIP = {"no": (False,), "yes": (True,), "both": (False, True)}
_console = Console(width=150)


def measure(parts: list[str], only: list[str] | None, effort: Effort, rounds: int) -> dict[str, list[Row]]:
    """Measure parts, round by round."""
    rows: dict[str, list[Row]] = {part: [] for part in parts}
    # In this order: what is measured first finds the memory of the processes fresh.
    shared = [part for part in PARTS if part in parts]
    needed = dict.fromkeys(name for part in shared for name in PARTS[part][1])
    names = [name for name in needed if (only is None or name in only) and shutil.which(CONTESTANTS[name].program)]
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            if shared:
                _say(f"round {number + 1}: starting {', '.join(names)}")
                with arena(names, Path(directory)) as standing:
                    if number == 0:
                        check_all(standing.values(), effort.sizes)
                        _say("every contestant returns the whole pictures")
                    for part in shared:
                        for row in PARTS[part][0](standing, effort, number):
                            _note(part, row, rows)
            if _READERS in parts:
                for row in readers(Path(directory), effort, number):
                    _note(_READERS, row, rows)
    return rows


def _note(part: str, row: Row, rows: dict[str, list[Row]]) -> None:
    rows[part].append(row)
    _say(f"{part}: " + " ".join(f"{name}={value}" for name, value in row.items()))


def _say(text: str) -> None:
    _console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", highlight=False, soft_wrap=True)


def _machine() -> dict[str, Any]:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {"date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(), "cpu": model.partition(": ")[2]} | {
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _write(path: Path, machine: dict[str, Any], rows: dict[str, list[Row]]) -> None:
    # A line per row, so that two runs can be compared.
    parts = (f"  {json.dumps(part)}: [\n" + ",\n".join(map(json.dumps, rows[part])) + "\n  ]" for part in rows)
    joined = ",\n".join(parts)
    path.write_text(f'{{"machine": {json.dumps(machine)},\n "rows": {{\n{joined}\n }}}}\n')


def write_tables(path: Path, tables: str) -> None:
    """Write the tables, below the mark in a page that has one."""
    above, mark, _ = (path.read_text() if path.exists() else "").partition(_MARK)
    path.write_text(f"{above}{mark}\n\n{tables}" if mark else tables)


def _show(figures: Figures) -> None:
    table = Table("bar", "promised", "measured", "met")
    for bar in bars(figures):
        if bar.measured is not None:
            table.add_row(*bar.cells)
    _console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare", description=__doc__.partition("\n")[0])
    known = (*PARTS, _READERS)
    parser.add_argument("--parts", default=",".join(known), help=f"of {', '.join(known)}")
    parser.add_argument("--only", help=f"contestants, of {', '.join(CONTESTANTS)}")
    parser.add_argument("--sizes", default="10k,1m,8m,20m")
    parser.add_argument("--connections", default="1,8,32")
    parser.add_argument("--gzip", choices=tuple(_GZIP), default="both", help="whether the client accepts it")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a short load; slow ones take longer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--full", action="store_true", help="every contestant in every cell")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw them there, as SVG")
    parser.add_argument(
        "--tables", type=Path, metavar="FILE", help="write them there, as Markdown; below <!-- figures --> in a page"
    )
    parser.add_argument("--draw", action="store_true", help="measure nothing: chart and tables of the JSON file")
    options = parser.parse_args()
    if not options.draw and not shutil.which("wrk"):
        parser.error("wrk is not installed: apt-get install wrk")
    for name in options.parts.split(","):
        if name not in known:
            parser.error(f"--parts: there is no {name!r}, only {', '.join(known)}")
    for name in (options.only or "").split(","):
        if name and name not in CONTESTANTS:
            parser.error(f"--only: there is no {name!r}, only {', '.join(CONTESTANTS)}")
    return options


def main() -> None:
    """Run the comparison."""
    # Told to end, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _options()
    earlier = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    rows: dict[str, list[Row]] = earlier.get("rows", {})
    machine = earlier.get("machine", {}) if options.draw else _machine()
    if not options.draw:
        effort = Effort(
            tuple(options.sizes.split(",")),
            tuple(map(int, options.connections.split(","))),
            _GZIP[options.gzip],
            1.0 if options.quick else options.seconds,
            options.full,
        )
        rounds = 1 if options.quick else options.rounds
        rows |= measure(options.parts.split(","), options.only.split(",") if options.only else None, effort, rounds)
    figures = Figures(rows)
    _show(figures)
    if options.json and not options.draw:
        _write(options.json, machine, rows)
    if options.chart:
        options.chart.write_text(svg(figures))
    if options.tables:
        write_tables(options.tables, markdown(figures))


if __name__ == "__main__":
    main()
