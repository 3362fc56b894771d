"""The comparison's own parts. What it measures is measured by hand: `python -m tests.benchmarks.compare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks.compare.__main__ import write_tables
from tests.benchmarks.compare.arena import arena, check_all
from tests.benchmarks.compare.bars import Bar, bars
from tests.benchmarks.compare.chart import svg
from tests.benchmarks.compare.contestants import Contestant
from tests.benchmarks.compare.figures import Figures
from tests.benchmarks.compare.tables import markdown

CELL = {"size": "8m", "connections": 8, "gzip": False}
COSTS = {"p50": 3.0, "p95": 5.0, "cpu": 2.0, "peak": 90.0, "grown": 10.0, "errors": 0}


def row(contestant: str, number: int, **fields: Any) -> dict[str, Any]:
    return {"contestant": contestant, "round": number, **CELL, **COSTS, **fields}


@pytest.fixture
def figures() -> Figures:
    rates = {"serve": (120.0, 90.0, 60.0), "native": (20.0, 30.0, 30.0), "direct": (400.0, 400.0, 400.0)}
    return Figures({"misses": [row(name, n, rate=rate) for name, told in rates.items() for n, rate in enumerate(told)]})


def bar(figures: Figures, text: str) -> Bar:
    return next(bar for bar in bars(figures) if bar.text == text)


def test_contestants_return_the_whole_pictures_of_the_upstream(tmp_path: Path) -> None:
    with arena(["serve"], tmp_path) as standing:
        check_all(standing.values(), ("10k", "1m"))

        assert standing["serve"].idle_mb > 0
        assert standing["serve"].process.cpu_seconds() > 0


class Mistaken(Contestant):
    def body(self, size: str, number: str) -> str:
        return Contestant.body(self, "10k", number)


def test_another_picture_is_told(tmp_path: Path) -> None:
    with arena([], tmp_path) as standing:
        direct = standing["direct"]
        named = {field.name: getattr(direct.contestant, field.name) for field in dataclasses.fields(Contestant)}

        with pytest.raises(RuntimeError, match="direct did not return the picture of 1m"):
            dataclasses.replace(direct, contestant=Mistaken(**named)).check("1m")


def test_a_ratio_is_the_median_of_the_rounds_ratios(figures: Figures) -> None:
    assert figures.ratio("misses", "rate", "serve", "native", **CELL) == 3.0
    assert figures.median("misses", "rate", contestant="serve", **CELL) == 90.0


def test_a_bar_is_met_unmet_or_not_measured(figures: Figures) -> None:
    assert bar(figures, "serve, requests/s to native's, 8m c=8").met is True
    assert bar(figures, "serve, requests/s to native's, 1m c=8").met is None

    worse = Figures({"misses": [row("serve", 0, rate=50.0), row("native", 0, rate=20.0)]})

    assert bar(worse, "serve, requests/s to native's, 8m c=8").met is False


def test_who_finished_nothing_is_beaten(figures: Figures) -> None:
    stuck = Figures({"misses": [row("serve", 0, rate=50.0), row("native", 0, rate=0.0)]})

    assert bar(stuck, "serve, requests/s to native's, 8m c=8").met is True


def test_the_chart_is_an_image_with_what_was_measured(figures: Figures) -> None:
    texts = [element.text for element in ET.fromstring(svg(figures)).iter() if element.text]  # noqa: S314 - it is ours

    assert "sfumato serve" in texts
    assert "3 times" in texts


def test_the_tables_have_a_row_per_cell(figures: Figures) -> None:
    rows = [line for line in markdown(figures).splitlines() if line.startswith("| 8 MB")]

    assert [line.split(" | ")[3:5] for line in rows] == [
        ["upstream alone", "400 (13.3; 1)"],
        ["sfumato serve", "90 (3; 0.225)"],
        ["LiteLLM native", "30 (1; 0.075)"],
    ]


def test_tables_go_below_the_mark_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Words.\n\n<!-- figures -->\n\nof an earlier run\n")

    write_tables(page, "of this run\n")

    assert page.read_text() == "Words.\n\n<!-- figures -->\n\nof this run\n"
