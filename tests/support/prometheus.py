"""A real Prometheus on loopback, with the rules and dashboards of the examples."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.ports import reserved_port

EXAMPLES = Path(__file__).parents[2] / "examples" / "observability"
_START_SECONDS = 90.0
_COMPARISON = re.compile(r"\s(?:==|!=|>=|<=|>|<)\s*[\d.]+$")


@dataclass(frozen=True)
class Panel:
    """One query of a panel.

    Attributes:
        dashboard: The file's stem.
        title: The panel's.
        expression: As it stands in the file, with Grafana's variables.
    """

    dashboard: str
    title: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.title}"


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query; those whose value is no number left out."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=60).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return [series for series in found if not math.isnan(float(series["value"][1]))]

    def get(self, path: str) -> Any:
        """Return the data of another route of the API."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", timeout=60).json()
        assert answer["status"] == "success", answer
        return answer["data"]


def require_prometheus() -> None:
    """Skip on a machine without prometheus and promtool, fail in CI."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        if os.environ.get("CI"):
            pytest.fail("prometheus is not installed")
        pytest.skip("prometheus is not installed")


def promtool(*arguments: str, directory: Path = EXAMPLES) -> None:
    """Run promtool; what it says stands in the failure."""
    done = subprocess.run(["promtool", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running_prometheus(config: Mapping[str, Any], directory: Path) -> Iterator[Prometheus]:
    """Run Prometheus with *config* in *directory*, beside the files that it names."""
    require_prometheus()
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(config))
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}", "--log.level=warn"]
    log = directory / "prometheus.log"
    with (
        reserved_port() as port,
        log.open("wb") as output,
        subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"],
            stdout=output,
            stderr=output,
            cwd=directory,
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _is_ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"prometheus did not start: {log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield Prometheus(url)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def dashboards() -> dict[str, dict[str, Any]]:
    """Return the dashboards by their file's stem."""
    files = sorted((EXAMPLES / "grafana").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def panels() -> list[Panel]:
    """Return every query of every dashboard."""
    return [
        Panel(name, panel["title"], target["expr"])
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


def rules() -> dict[str, dict[str, Any]]:
    """Return the alert rules by name."""
    groups = msgspec.yaml.decode((EXAMPLES / "alerts.yml").read_bytes())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def substituted(expression: str, *, window: str) -> str:
    """Return a panel's expression as Grafana sends it, with everything chosen and *window* as the time span."""
    chosen = {"job": "sfumato.*", "instance": ".*", "model": ".*"}
    for name, value in {**chosen, "interval": window, "__range": window}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, expression
    return expression


def measured(expression: str) -> list[str]:
    """Return what an alert measures: every side of its outermost ``and`` and ``or``, without the comparison.

    An alert that holds returns a series, one that does not returns none, like one with a misspelled name. Without the
    comparison with a number only the misspelled one is empty. What stands inside a function's parentheses stays.
    """
    found = []
    for side in _sides(expression):
        if _is_enclosed(side):
            found += measured(side[1:-1])
        else:
            short = _COMPARISON.sub("", side)
            assert short != side, expression
            found.append(short)
    return found


def _sides(expression: str) -> list[str]:
    sides, depth, start = [], 0, 0
    for match in re.finditer(r"[({\[]|[)}\]]|\s(?:and|or)\s", expression):
        if match[0] in "({[":
            depth += 1
        elif match[0] in ")}]":
            depth -= 1
        elif depth == 0:
            sides.append(expression[start : match.start()].strip())
            start = match.end()
    return [*sides, expression[start:].strip()]


def _is_enclosed(expression: str) -> bool:
    """Tell whether the first parenthesis is closed by the last character."""
    depth = 0
    for position, character in enumerate(expression):
        depth += (character in "({[") - (character in ")}]")
        if depth == 0:
            return position == len(expression) - 1 and character == ")"
    return False


def metric_names(expression: str) -> set[str]:
    """Return the metrics that an expression reads, a histogram's under its own name."""
    bare = re.sub(r"\{[^}]*\}|\b(?:by|without) \([^)]*\)", "", expression)
    found = set(re.findall(r"\b(?:(?:gemini_image|gen_ai)_\w+|up)\b", bare))
    return {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in found}


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=1).status_code == 200
    except httpx.TransportError:
        return False
