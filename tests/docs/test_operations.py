"""The operations pages hold together, and state what the code does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from sfumato.cli.app import app as command_line
from sfumato.errors import leaves
from sfumato.settings import Settings, variable_names
from sfumato.telemetry.logs import log_fields
from sfumato.telemetry.names import INSTRUMENTS
from sfumato.telemetry.observer import Call, OperationRecord
from tests.support.prometheus import rules
from tests.support.runbook import FENCE, PAGES, ROOT, Block, all_blocks, anchors, prose

NAMES = [page.stem for page in PAGES]
EXAMPLES = ROOT / "examples" / "observability"
_LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?<![\w./\[-])sfumato (?P<words>[a-z]+(?: [a-z]+)?)(?P<rest>[^\n#`|&)]*)")
_KINDS = {"observable_counter": "counter", "observable_gauge": "gauge", "up_down_counter": "gauge"}


def page(name: str) -> str:
    return (ROOT / "docs" / "operations" / f"{name}.md").read_text()


def test_every_page_stands_in_the_index_and_the_index_in_the_documentation() -> None:
    for name in NAMES:
        assert name == "index" or f"]({name}.md)" in page("index")
    assert "](operations/index.md)" in (ROOT / "docs" / "index.md").read_text()
    assert "](docs/operations/index.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("file", [*PAGES, EXAMPLES / "README.md"], ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_link_leads_somewhere(file: Path) -> None:
    for target in _LINK.findall(prose(file.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = (file.parent / path).resolve() if path else file
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other.read_text()), target


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_whole(name: str) -> None:
    text = page(name)
    assert text.count("```") == 2 * len(FENCE.findall(text))
    for paragraph in prose(text).split("\n\n"):
        assert paragraph.count("`") % 2 == 0, paragraph
    for listed in re.findall(r"^- \[[^\]]+\]\(#([^)]+)\)", text, re.MULTILINE):
        assert listed in anchors(text)


@pytest.mark.parametrize("block", all_blocks("bash"), ids=str)
def test_commands_are_run_or_marked_as_the_site_s_own(block: Block) -> None:
    assert block.mark in {"run", "site"}
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_yaml_parses(block: Block) -> None:
    assert msgspec.yaml.decode(block.text)


def test_no_unknown_variable_or_error_is_named() -> None:
    known = {name for field in Settings.model_fields for name in variable_names(field)}
    codes = {kind.code for kind in leaves()}
    for text in (*(page(name) for name in NAMES), (EXAMPLES / "README.md").read_text()):
        assert set(re.findall(r"\b(?:GEMINI_(?:IMAGE|API)_[A-Z0-9_]+|CACHE_[A-Z_]+)\b", text)) <= known
        assert set(re.findall(r"\bIMG_[A-Z_]+\b", text)) <= codes


def test_commands_and_their_options_exist() -> None:
    group: Any = typer.main.get_command(command_line)
    texts = [block.text for block in all_blocks("bash")]
    texts += [span for name in NAMES for span in re.findall(r"`(sfumato [^`]+)`", prose(page(name)))]
    seen = set()
    for match in (match for text in texts for match in _COMMAND.finditer(text)):
        first, _, second = match["words"].partition(" ")
        command = group.commands.get(first)
        if command is None:
            # A service of that name, as in `systemctl stop sfumato`.
            continue
        command = command.commands[second] if hasattr(command, "commands") else command
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", match["rest"])) <= known, match[0]
        seen.add(first)
    assert seen == {"cache", "check", "emulator", "proxy", "serve"}


def test_queries_read_fields_of_the_log() -> None:
    known = set(log_fields(OperationRecord(call=Call(request_id="req"))))
    made = {"event", "parked", "reason", "cooling", "model", "seconds_left", "label", "state", "running", "accounts"}
    made |= {"stats", "entries", "size_bytes", "key", "variant", "removed", "data", "b64_json", "size", "error"}
    made |= {"image_error", "code", "param", "output_format", "length", "refused", "requests"}
    for block in all_blocks("bash"):
        for program in re.findall(r"jq [^']*'([^']+)'", block.text):
            for field in re.findall(r"(?<![\w\])])\.([a-z_0-9]+)", re.sub(r'"[^"]*"', "", program)):
                assert field in known | made, f"{block}: {field}"


def test_every_alert_has_three_first_steps_under_its_severity() -> None:
    text = page("alerts")
    for name, rule in rules().items():
        severity = rule["labels"]["severity"].capitalize()
        found = text.split(f"\n## {severity}\n")[1].split("\n## ")[0]
        steps = found.split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert re.findall(r"^(\d)\. ", steps, re.MULTILINE) == ["1", "2", "3"], name
    headings = re.findall(r"^### (\w+)$", text, re.MULTILINE)
    assert headings == list(rules())


def test_every_metric_is_explained() -> None:
    table = page("metrics").split("\n## All metrics\n")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(INSTRUMENTS)
    for row, metric in zip(rows, INSTRUMENTS, strict=True):
        name, kind, labels, meaning = (cell.strip() for cell in row.strip("|").split(" | "))
        assert name == f"`{metric.name}`<br>→ `{metric.prometheus}`"
        assert kind == _KINDS.get(metric.kind, metric.kind)
        assert re.findall(r"`([^`]+)`", labels) == list(metric.labels)
        assert meaning == metric.description
