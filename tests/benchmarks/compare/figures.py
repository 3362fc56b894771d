"""Medians and ratios of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


class Figures:
    """The rows of a run, asked for medians over its rounds.

    Args:
        rows: By part.
    """

    def __init__(self, rows: Mapping[str, Sequence[Row]]) -> None:
        self.rows = rows

    def values(self, part: str, field: str, **where: Any) -> dict[int, float]:
        """Return a field of the rows that match, by round."""
        found = (row for row in self.rows.get(part, ()) if all(row.get(name) == value for name, value in where.items()))
        return {row["round"]: float(row[field]) for row in found}

    def median(self, part: str, field: str, **where: Any) -> float | None:
        """Return the median over the rounds; None if nothing was measured."""
        values = self.values(part, field, **where)
        return statistics.median(values.values()) if values else None

    def ratio(self, part: str, field: str, one: str, other: str, **where: Any) -> float | None:
        """Return the median of the rounds' ratios of one contestant to another; None if one was not measured.

        What is 0, as the requests per second of who finished none, counts as the smallest figure shown.
        """
        ours = self.values(part, field, contestant=one, **where)
        theirs = self.values(part, field, contestant=other, **where)
        ratios = [ours[number] / max(theirs[number], 0.01) for number in ours.keys() & theirs.keys()]
        return statistics.median(ratios) if ratios else None

    def added(self, field: str, name: str, **where: Any) -> float | None:
        """Return the median of what a contestant adds to the upstream's own figure."""
        ours = self.values("misses", field, contestant=name, **where)
        direct = self.values("misses", field, contestant="direct", **where)
        added = [ours[number] - direct[number] for number in ours.keys() & direct.keys()]
        return statistics.median(added) if added else None
