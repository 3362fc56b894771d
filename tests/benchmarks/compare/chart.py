"""The picture of a run: bars over LiteLLM's native route, as an SVG that needs nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from tests.benchmarks.compare.figures import Figures

_WIDTH, _PANEL, _GAP, _MARGIN, _LABELS, _BAR, _HEAD = 960, 452, 16, 20, 132, 17, 60
_ROOM = _PANEL - _LABELS - 90
_INK = "#1d2329"
_BOLD = f'font-weight="600" fill="{_INK}"'
_COLOURS = {"native": "#9aa3ad", "provider": "#8fb8de", "late": "#2f7ed8", "serve": "#e4572e", "floor": "#9aa3ad"}
_COLOURS |= {"hits": "#e4572e", "nginx": "#c9cfd6"}
_NAMES = {
    "native": "LiteLLM native",
    "provider": "+ provider",
    "late": "+ late binding",
    "serve": "sfumato serve",
    "hits": "sfumato hits",
    "floor": "FileResponse",
    "nginx": "nginx",
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    unit: str
    groups: Sequence[tuple[str, Sequence[tuple[str, float]]]]

    @property
    def height(self) -> int:
        return _HEAD + sum(22 + len(rows) * _BAR for _, rows in self.groups)


def svg(figures: Figures) -> str:
    """Draw the chart."""
    panels = [panel for panel in _panels(figures) if panel.groups]
    parts, tops = [], [_MARGIN, _MARGIN]
    for panel in panels:
        column = tops.index(min(tops))
        parts.append(_drawn(panel, _MARGIN + column * (_PANEL + _GAP), tops[column]))
        tops[column] += panel.height + _GAP
    height = max(tops)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-size="12"'
        ' font-family="system-ui, sans-serif" role="img">\n'
        "<title>sfumato and LiteLLM's native route</title>\n"
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panels(figures: Figures) -> Iterator[_Panel]:
    cells = [("10 KB, 1 at a time", "10k", 1), ("1 MB, 8 at a time", "1m", 8)]
    cells += [("8 MB, 8 at a time", "8m", 8), ("20 MB, 32 at a time", "20m", 32)]
    names = ("native", "provider", "late", "serve")
    yield _Panel("Pictures per second, times LiteLLM native's", "times", list(_ratios(figures, cells, names)))
    yield _Panel("CPU per picture", "ms", list(_medians(figures, "cpu", cells[1:], names, gzip=False)))
    yield _Panel(
        "The same when the client accepts gzip",
        "ms",
        list(_medians(figures, "cpu", [("8 MB, 1 at a time", "8m", 1)], names, gzip=True)),
    )
    yield _Panel("Peak memory of the process", "MB", list(_medians(figures, "peak", cells[2:], names, gzip=False)))
    hits = [("1 MB, 8 at a time", "1m", 8), ("8 MB, 8 at a time", "8m", 8)]
    yield _Panel(
        "Cache hits per second", "", list(_medians(figures, "rate", hits, ("hits", "floor", "nginx"), part="hits"))
    )
    waits = [
        (name, value)
        for name in ("native", "late")
        if (value := figures.median("neighbours", "p99", contestant=name, request="health")) is not None
    ]
    groups = [("99th percentile of a health check", waits)] if waits else []
    yield _Panel("A neighbour's wait beside eight 20 MB pictures", "ms", groups)


def _ratios(
    figures: Figures, cells: Sequence[tuple[str, str, int]], names: Sequence[str]
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    for title, size, connections in cells:
        where = {"size": size, "connections": connections, "gzip": False}
        found = ((name, figures.ratio("misses", "rate", name, "native", **where)) for name in names)
        rows = [(name, value) for name, value in found if value is not None]
        if rows:
            yield title, rows


def _medians(
    figures: Figures,
    field: str,
    cells: Sequence[tuple[str, str, int]],
    names: Sequence[str],
    *,
    gzip: bool = False,
    part: str = "misses",
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    for title, size, connections in cells:
        where = {"size": size, "connections": connections, "gzip": gzip}
        found = ((name, figures.median(part, field, contestant=name, **where)) for name in names)
        rows = [(name, value) for name, value in found if value is not None]
        if rows:
            yield title, rows


def _drawn(panel: _Panel, left: int, top: int) -> str:
    most = max(value for _, rows in panel.groups for _, value in rows) or 1
    lines = [
        f'<rect x="{left}" y="{top}" width="{_PANEL}" height="{panel.height}" rx="6" fill="#f6f7f9"/>',
        f'<text x="{left + 14}" y="{top + 26}" font-size="14" {_BOLD}>{escape(panel.title)}</text>',
    ]
    y = top + 36
    for title, rows in panel.groups:
        y += 18
        lines.append(f'<text x="{left + 14}" y="{y}" {_BOLD}>{escape(title)}</text>')
        y += 4
        for name, value in rows:
            lines += _bar(name, value, panel.unit, left + _LABELS, y, round(_ROOM * value / most))
            y += _BAR
    return "\n".join(lines)


def _bar(name: str, value: float, unit: str, left: int, top: int, width: int) -> Iterator[str]:
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    base, width = top + _BAR - 5, max(1, width)
    box = f'x="{left + 8}" y="{top + 2}" width="{width}" height="{_BAR - 4}" rx="2"'
    yield f'<text x="{left}" y="{base}" text-anchor="end" fill="{_INK}">{_NAMES[name]}</text>'
    yield f'<rect {box} fill="{_COLOURS[name]}"/>'
    yield f'<text x="{left + 14 + width}" y="{base}" fill="{_INK}">{text} {unit}</text>'
