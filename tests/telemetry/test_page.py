"""The page of telemetry says what the table of names says."""

from __future__ import annotations

import re
from pathlib import Path

from sfumato.telemetry import names

PAGE = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
KINDS = {
    "observable_counter": "counter",
    "observable_up_down_counter": "up-down counter",
    "histogram": "histogram",
    "observable_gauge": "gauge",
}


def rows(section: str) -> list[tuple[str, ...]]:
    """Return the rows of a section's tables."""
    _, _, text = PAGE.partition(f"\n## {section}\n")
    lines = text.partition("\n## ")[0].splitlines()
    return [tuple(line.strip("| ").split(" | ")) for line in lines if line.startswith("| `")]


def test_every_attribute_is_explained() -> None:
    assert {name.strip("`"): words for name, words in rows("Traces")} == names.ATTRIBUTES


def test_every_metric_stands_there_with_its_unit_and_labels() -> None:
    told = {
        name.strip("`"): (kind, set(re.findall(r"`([^`]+)`", labels)), words)
        for name, kind, labels, words in rows("Metrics")
    }
    assert told == {
        instrument.name: (
            f"{KINDS[instrument.kind]}, `{instrument.unit}`",
            set(instrument.labels),
            instrument.description,
        )
        for instrument in names.INSTRUMENTS
    }


def test_every_metric_s_name_in_prometheus() -> None:
    told = {name.strip("`"): other.strip("`") for name, other in rows("Prometheus")}
    assert told == {instrument.name: instrument.prometheus for instrument in names.INSTRUMENTS}
