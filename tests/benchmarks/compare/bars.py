"""The bars of the comparison: what was promised, and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from tests.benchmarks.compare.figures import Figures


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """One promise.

    Attributes:
        text: What is measured.
        bound: What was promised.
        measured: None if it was not measured.
        least: Whether the bound is the least or the most.
        unit: Of both.
        goal: What would be better still.
        beside: Figures that tell what the ratio is of.
    """

    text: str
    bound: float
    measured: float | None
    least: bool = True
    unit: str = "times"
    goal: float | None = None
    beside: str = ""

    @property
    def met(self) -> bool | None:
        """Tell whether the promise is kept; None if nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.least else self.measured <= self.bound

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Return the texts of a table's row."""
        sign = "≥" if self.least else "≤"
        goal = f" (goal {self.goal:g})" if self.goal is not None else ""
        told = "not measured" if self.measured is None else f"{self.measured:.3g} {self.unit}{self.beside}"
        return (
            self.text,
            f"{sign} {self.bound:g} {self.unit}{goal}",
            told,
            {True: "yes", False: "**no**", None: "-"}[self.met],
        )


def bars(figures: Figures) -> Iterator[Bar]:
    """Yield every bar with what was measured of it."""
    yield from _serve(figures)
    yield from _hits(figures)
    yield from _late(figures)
    yield from _neighbours(figures)


def _serve(figures: Figures) -> Iterator[Bar]:
    for name, title in (("serve", "serve"), ("exporting", "serve exporting over OTLP")):
        for size, connections, bound, goal in (("1m", 8, 4.0, None), ("8m", 8, 3.0, 6.0), ("20m", 32, 4.0, None)):
            cell = {"size": size, "connections": connections, "gzip": False}
            ratio = figures.ratio("misses", "rate", name, "native", **cell)
            text = f"{title}, requests/s to native's, {size} c={connections}"
            yield Bar(text, bound, ratio, goal=goal, beside=_rates(figures, (name, "native"), cell))
        cell = {"size": "10k", "connections": 1, "gzip": False}
        native = figures.added("p50", "native", **cell)
        beside = "" if native is None else f" (native {native:.3g})"
        added = figures.added("p50", name, **cell)
        yield Bar(f"{title}, p50 added, 10k c=1", 2, added, least=False, unit="ms", beside=beside)
        cell = {"size": "20m", "connections": 32, "gzip": False}
        native = figures.median("misses", "peak", contestant="native", **cell)
        beside = "" if native is None else f" (native {native:.0f})"
        peak = figures.median("misses", "peak", contestant=name, **cell)
        yield Bar(f"{title}, peak RSS, 20m c=32", 600, peak, least=False, unit="MB", goal=300, beside=beside)


def _hits(figures: Figures) -> Iterator[Bar]:
    for size in ("1m", "8m"):
        cell = {"size": size, "connections": 8}
        ratio = figures.ratio("hits", "rate", "hits", "floor", **cell)
        rates = _rates(figures, ("hits", "floor", "nginx"), cell, part="hits")
        yield Bar(f"hits, requests/s to FileResponse's, {size} c=8", 0.6, ratio, goal=0.8, beside=rates)
    p50 = figures.median("hits", "p50", contestant="hits", size="1m", connections=1)
    floor = figures.median("hits", "p50", contestant="floor", size="1m", connections=1)
    beside = "" if floor is None else f" (FileResponse {floor:.2g})"
    yield Bar("hits, p50, 1m c=1", 3, p50, least=False, unit="ms", beside=beside)


def _late(figures: Figures) -> Iterator[Bar]:
    for size, connections, gzip, bound in (("8m", 8, False, 3.0), ("20m", 8, False, 5.0), ("8m", 1, True, 10.0)):
        cell = {"size": size, "connections": connections, "gzip": gzip}
        ratio = figures.ratio("misses", "rate", "late", "native", **cell)
        text = f"late binding, requests/s to native's, {size} c={connections}{' gzip' if gzip else ''}"
        yield Bar(text, bound, ratio, beside=_rates(figures, ("late", "native"), cell))
    for size, connections in (("8m", 8), ("20m", 32)):
        cell = {"size": size, "connections": connections, "gzip": False}
        ratio = figures.ratio("misses", "grown", "late", "native", **cell)
        medians = [figures.median("misses", "grown", contestant=name, **cell) for name in ("late", "native")]
        beside = f" ({medians[0]:.0f} : {medians[1]:.0f} MB)" if None not in medians else ""
        text = f"late binding, peak RSS over idle to native's, {size} c={connections}"
        yield Bar(text, 0.5, ratio, least=False, beside=beside)


def _neighbours(figures: Figures) -> Iterator[Bar]:
    for kind in ("health", "10k"):
        ratio = figures.ratio("neighbours", "p99", "late", "native", request=kind)
        medians = [figures.median("neighbours", "p99", contestant=name, request=kind) for name in ("late", "native")]
        beside = f" ({medians[0]:.0f} : {medians[1]:.0f} ms)" if None not in medians else ""
        yield Bar(f"neighbours, p99 of {kind} late-bound to native's", 0.333, ratio, least=False, beside=beside)
    for kind in ("miss", "hit"):
        late = figures.median("stalls", "late_p50", size="20m", kind=kind)
        busy = figures.median("stalls", "busy_p50", size="20m", kind=kind)
        beside = "" if busy is None else f" ({busy:.2g} of its own CPU)"
        yield Bar(f"serve, event-loop stall, 20m {kind}", 20, late, least=False, unit="ms", beside=beside)
    grown = figures.median("readers", "grown_mb")
    yield Bar("500 slow readers of 8m hits, RSS growth", 200, grown, least=False, unit="MB")
    ratio = figures.median("readers", "others_p95_ratio")
    yield Bar("500 slow readers, p95 of others", 3, ratio, least=False)


def _rates(figures: Figures, names: tuple[str, ...], cell: Mapping[str, object], part: str = "misses") -> str:
    rates = [figures.median(part, "rate", contestant=name, **cell) for name in names]
    return f" ({' : '.join(map(_rate, rates))}/s)"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
