"""Tables of a run, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.benchmarks.compare.bars import bars
from tests.benchmarks.compare.contestants import CONTESTANTS
from tests.benchmarks.compare.figures import Figures

_METRICS = (("rate", "requests/s"), ("p50", "p50 ms"), ("p95", "p95 ms"), ("cpu", "CPU ms"), ("peak", "peak MB"))
_MISSES = "|".join(["size|c|gzip|", *(title for _, title in _METRICS), "added p50 ms|over idle MB|errors"])
_NOTE = "In brackets: as a multiple of LiteLLM native's figure, and of the upstream's own."
_SIZES = {"10k": "10 KB", "1m": "1 MB", "8m": "8 MB", "20m": "20 MB"}


def markdown(figures: Figures) -> str:
    """Return all tables of a run."""
    sections: list[tuple[str, str, list[tuple[str, ...]]]] = [
        ("Bars", "bar|promised|measured|met", [bar.cells for bar in bars(figures)]),
        ("Misses", _MISSES, list(_misses(figures))),
        ("Hits", "size|c||requests/s|to FileResponse|p50 ms|p95 ms|CPU ms", list(_hits(figures))),
        ("Neighbours", "request||p50 ms|p99 ms|longest ms|p99 ms alone", list(_neighbours(figures))),
        ("Stalls", "size||late p50 ms|late max ms|busy p50 ms|busy max ms", list(_stalls(figures))),
        ("Readers", "what|median", list(_readers(figures))),
    ]
    notes = {"Misses": f"{_NOTE}\n\n"}
    told = (f"## {title}\n\n{notes.get(title, '')}{_table(head, rows)}" for title, head, rows in sections if rows)
    return "\n\n".join(told) + "\n"


def _misses(figures: Figures) -> Iterator[tuple[str, ...]]:
    for size, connections, gzip, name in _cells(figures, "misses", ("size", "connections", "gzip", "contestant")):
        cell = {"size": size, "connections": connections, "gzip": gzip}

        def told(field: str, name: object = name, cell: dict[str, object] = cell) -> str:
            return _text(figures.median("misses", field, contestant=name, **cell))

        def ratio(field: str, other: str, name: object = name, cell: dict[str, object] = cell) -> str:
            return _text(figures.ratio("misses", field, str(name), other, **cell))

        yield (
            _SIZES[str(size)],
            str(connections),
            "yes" if gzip else "",
            CONTESTANTS[str(name)].title,
            *(f"{told(field)} ({ratio(field, 'native')}; {ratio(field, 'direct')})" for field, _ in _METRICS),
            _text(figures.added("p50", str(name), **cell)),
            told("grown"),
            told("errors"),
        )


def _hits(figures: Figures) -> Iterator[tuple[str, ...]]:
    for size, connections, name in _cells(figures, "hits", ("size", "connections", "contestant")):
        cell = {"size": size, "connections": connections}
        yield (
            _SIZES[str(size)],
            str(connections),
            CONTESTANTS[str(name)].title,
            _text(figures.median("hits", "rate", contestant=name, **cell)),
            _text(figures.ratio("hits", "rate", str(name), "floor", **cell)),
            *(_text(figures.median("hits", field, contestant=name, **cell)) for field in ("p50", "p95", "cpu")),
        )


def _neighbours(figures: Figures) -> Iterator[tuple[str, ...]]:
    for kind, name in _cells(figures, "neighbours", ("request", "contestant")):
        fields = ("p50", "p99", "longest", "alone_p99")
        found = (figures.median("neighbours", field, contestant=name, request=kind) for field in fields)
        yield str(kind), CONTESTANTS[str(name)].title, *map(_text, found)


def _stalls(figures: Figures) -> Iterator[tuple[str, ...]]:
    for size, kind in _cells(figures, "stalls", ("size", "kind")):
        fields = ("late_p50", "late_max", "busy_p50", "busy_max")
        found = (figures.median("stalls", field, size=size, kind=kind) for field in fields)
        yield _SIZES[str(size)], str(kind), *map(_text, found)


def _readers(figures: Figures) -> Iterator[tuple[str, ...]]:
    for row in figures.rows.get("readers", ())[:1]:
        for field in row:
            yield field, _text(figures.median("readers", field))


def _cells(figures: Figures, part: str, fields: Sequence[str]) -> list[tuple[object, ...]]:
    seen = dict.fromkeys(tuple(row[field] for field in fields) for row in figures.rows.get(part, ()))
    order = {name: place for place, name in enumerate((*_SIZES, *CONTESTANTS, "idle", "miss", "hit", "health"))}
    return sorted(seen, key=lambda cell: tuple((order.get(str(value), -1), str(value).zfill(3)) for value in _by(cell)))


def _by(cell: tuple[object, ...]) -> tuple[object, ...]:
    # gzip last but for the contestant: cells without it stand together.
    return (cell[2], cell[0], cell[1], *cell[3:]) if len(cell) == 4 else cell


def _table(head: str, rows: Iterable[Sequence[str]]) -> str:
    titles = head.split("|")
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
