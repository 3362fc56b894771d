"""What the cache saves on a workload with repeats, by its own count and by the emulator's.

::

    python -m tests.benchmarks.cache_savings [--requests 1000] [--repeats 40] [--concurrency 8]

Each distinct request is generated once and then repeated. The emulator's journal tells what each generation cost, so
also what the calls would have cost that were never made. Fails when the cache saves less than three quarters of the
share of repeats (30 % at 40 %), or when the sum of `ImageResult.savings_usd` is not the emulator's.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.store import Store
from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.images.request import CacheStatus, ImageResult
from tests.support.clients import Bench, bench
from tests.support.servers import serving

_BUDGET_BYTES = 1_000_000_000
# The smallest pictures, one tier and shape after the other, so that prices differ.
_SHAPES: tuple[dict[str, Any], ...] = (
    {"image_size": "1K"},
    {"image_size": "1K", "aspect_ratio": "16:9"},
    {"image_size": "1K", "quality": "hd", "style": "natural"},
    {"image_size": "1K", "n": 2},
)
_MARK = "motif"


@dataclasses.dataclass(frozen=True, slots=True)
class Savings:
    """What a workload cost; USD.

    Attributes:
        told_cost, told_savings: Summed over the answers' `ImageResult`.
        billed: What the emulator billed for the calls it got.
        avoided: What the emulator would have billed for the pictures it was not asked.
    """

    requests: int
    repeats: int
    calls: int
    statuses: Counter[CacheStatus]
    told_cost: float
    told_savings: float
    billed: float
    avoided: float

    @property
    def saved_share(self) -> float:
        """Return the share of the cost without a cache that was saved."""
        return self.avoided / (self.billed + self.avoided)

    def violations(self) -> list[str]:
        """Name everything that must not be."""
        wanted = 0.75 * self.repeats / self.requests
        found = {
            f"{self.saved_share:.1%} saved, {wanted:.1%} wanted": self.saved_share < wanted,
            "the savings told are not the emulator's": not _same(self.told_savings, self.avoided),
            "the cost told is not what the emulator billed": not _same(self.told_cost, self.billed),
        }
        return [text for text, violated in found.items() if violated]


def workload(requests: int, repeats: int, *, seed: int = 1) -> list[int]:
    """Return the motif of each request: every motif comes once, and *repeats* of the requests come again."""
    chance = random.Random(seed)
    distinct = requests - repeats
    order = list(range(distinct))
    # A few motifs are asked for often.
    again = [min(distinct - 1, int(chance.paretovariate(0.6)) - 1) for _ in range(repeats)]
    for motif in again:
        order.insert(chance.randint(order.index(motif) + 1, len(order)), motif)
    return order


async def play(motifs: Sequence[int], store: Store, *, concurrency: int = 8) -> Savings:
    """Send a request for each of *motifs* through an `ImageClient` to an emulator, and compare both sides' counts."""
    app = create_emulator(EmulatorOptions(max_journal_calls=10 * len(motifs)))
    with serving(app) as url:
        async with bench(url, store=store) as it:
            results = await _send(it, motifs, concurrency)
    prices: dict[str, list[float]] = {}
    for call in app.state.journal.calls:
        prices.setdefault(_motif_of(call.body), []).append(call.cost_usd)
    asked = Counter(f"{_MARK} {motif}" for motif in motifs)
    return Savings(
        requests=len(motifs),
        repeats=len(motifs) - len(asked),
        calls=len(app.state.journal.calls),
        statuses=Counter(result.cache_status for result in results),
        told_cost=math.fsum(result.cost_usd for result in results),
        told_savings=math.fsum(result.savings_usd for result in results),
        billed=math.fsum(math.fsum(costs) for costs in prices.values()),
        # A motif's calls are those of one generation of all its pictures.
        avoided=math.fsum(math.fsum(prices[motif]) * (count - 1) for motif, count in asked.items()),
    )


async def _send(it: Bench, motifs: Sequence[int], concurrency: int) -> list[ImageResult]:
    results: list[ImageResult] = []
    waiting = iter(motifs)

    async def send() -> None:
        for motif in waiting:
            shape = _SHAPES[motif % len(_SHAPES)]
            # Longer prompts cost more, so that no two motifs need to cost the same.
            results.append(await it.make(f"{_MARK} {motif} {'of a lighthouse ' * (motif % 7)}", **shape))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(send())
    return results


def _motif_of(body: Any) -> str:
    text: str = next(part["text"] for part in body["contents"][0]["parts"] if "text" in part)
    return " ".join(text.split()[:2])


def _same(one: float, other: float) -> bool:
    # The emulator rounds each call's price to a millionth of a dollar.
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-4)


def main() -> int:
    """Run the workload; return 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cache_savings")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=40, metavar="PERCENT")
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    motifs = workload(options.requests, options.requests * options.repeats // 100)
    with tempfile.TemporaryDirectory(prefix="sfumato-savings-") as directory:
        store = FilesystemStore(Path(directory), _BUDGET_BYTES)
        savings = asyncio.run(play(motifs, store, concurrency=options.concurrency))
    console = Console(width=100)
    console.print(_table(savings))
    violations = savings.violations()
    for violation in violations:
        console.print(f"[bold red]violated[/] {violation}")
    if not violations:
        console.print("[green]nothing violated[/]")
    return 1 if violations else 0


def _table(savings: Savings) -> Table:
    table = Table(title="Savings", title_justify="left", show_header=False)
    for name, value in {
        "requests": f"{savings.requests:,}, {savings.repeats / savings.requests:.0%} of them repeats",
        "calls to the emulator": f"{savings.calls:,}",
        "answers": ", ".join(f"{count} {status}" for status, count in savings.statuses.most_common()),
        "without the cache": f"${savings.billed + savings.avoided:.6f}",
        "billed by the emulator": f"${savings.billed:.6f}; the answers say ${savings.told_cost:.6f}",
        "not asked of the emulator": f"${savings.avoided:.6f}; the answers say ${savings.told_savings:.6f}",
        "saved": f"{savings.saved_share:.1%}",
    }.items():
        table.add_row(name, value)
    return table


if __name__ == "__main__":
    sys.exit(main())
