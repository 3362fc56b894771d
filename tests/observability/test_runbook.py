"""The commands of docs/operations, run as they stand, against a service and a Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.prometheus import Prometheus
from tests.support.runbook import PAGES, Block, all_blocks, blocks
from tests.support.workload import ADMIN_KEY, CLIENT_KEY, Service, run_round, running_service

_SUBSTITUTION = re.compile(r"\$\([^()]*(?:\([^()]*\)[^()]*)*\)")
RUNNABLE = [page for page in PAGES if any(block.mark == "run" for block in blocks(page))]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose accounts work, after everything happened to it once."""
    for tool in ("bash", "curl", "jq"):
        if shutil.which(tool) is None:
            if os.environ.get("CI"):
                pytest.fail(f"{tool} is not installed")
            pytest.skip(f"{tool} is not installed")
    with running_service(tmp_path_factory.mktemp("healthy"), labels=("first", "second")) as service:
        run_round(service, "one")
        yield service


def write_log(service: Service, path: Path) -> None:
    """Write the lines so far, and one of a request that took a minute."""
    lines = service.lines()
    slow = json.loads(lines.splitlines()[0]) | {"generation_time_ms": 61_000.0}
    path.write_text(json.dumps(slow, separators=(",", ":")) + "\n" + lines)


def finds(block: Block) -> bool:
    """Tell whether a block prints what it asks for; a substitution only hands it on, and ``>>`` keeps it."""
    asked = re.search(r"\b(?:curl|jq)\b", _SUBSTITUTION.sub("", block.text))
    return block.page == "logs" or (asked is not None and ">>" not in block.text)


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_commands_run(page: Path, healthy: Service, prometheus: Prometheus, tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    environment = {
        **os.environ,
        **healthy.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SFUMATO": healthy.url,
        "CLIENT_KEY": CLIENT_KEY,
        "ADMIN_KEY": ADMIN_KEY,
        "LOG": str(log),
        "PROMETHEUS": prometheus.url,
    }
    for block in blocks(page):
        if block.mark != "run":
            continue
        write_log(healthy, log)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        if finds(block):
            assert done.stdout.strip(), f"{block} finds nothing"


def test_most_commands_are_run() -> None:
    marks = [block.mark for block in all_blocks("bash")]
    assert marks.count("run") > 3 * marks.count("site")
