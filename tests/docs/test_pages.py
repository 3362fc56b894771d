"""The pages hold together: links lead somewhere, and every example parses, compiles and, where marked, runs.

A python block after the line ``<!-- run -->`` is executed: the blocks of a page share one namespace, in order, with the
environment of a sfumato that stands before the emulator. After ``<!-- run: pytest -->`` it is a test file of its own.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from sfumato.asgi.app import create_app
from sfumato.cli.app import app as command_line
from sfumato.settings import load_settings
from tests.conftest import Emulator
from tests.support.servers import serving

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>run(?:: pytest)?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?<![\w./\[-])(?<!install )sfumato (?P<name>[a-z]+)(?P<rest>[^\n#`|&]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    mark: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*kinds: str) -> list[Block]:
    """Return the fenced blocks of *kinds* in all pages, in order."""
    found = []
    for page, name in zip(PAGES, PAGE_NAMES, strict=True):
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if match["kind"] in kinds:
                line = text.count("\n", 0, match.start("text")) + 1
                found.append(Block(name, line, match["kind"], match["mark"], match["text"]))
    return found


def prose(text: str) -> str:
    """Return a page without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#{1,6} +(.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages_and_no_tags_left_behind() -> None:
    names = {page.stem for page in PAGES}
    assert {"index", "getting-started", "models", "parameters", "edits", "safety", "errors", "configuration"} <= names
    assert {"litellm", "middleware", "caching", "logging", "testing", "architecture", "changelog"} <= names
    for page in PAGES:
        assert not re.search(r"@[A-Z]+\d?@", page.read_text()), page


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{page.name} links to {target}"


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index
        assert page.name == "index.md" or f"](docs/{page.name})" in readme


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").glob("*.jpg"):
        assert picture.stat().st_size < 200_000


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_code_spans_and_fences_are_closed(page: Path) -> None:
    text = page.read_text()
    assert text.count("```") == 2 * len(_FENCE.findall(text))
    for line in _FENCE.sub("", text).split("\n\n"):
        assert line.count("`") % 2 == 0, line


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_parses(block: Block) -> None:
    msgspec.json.decode(block.text)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_parses(block: Block) -> None:
    document: Any = msgspec.yaml.decode(block.text)
    for row in document.get("model_list", ()):
        assert row["model_name"]
        assert row["litellm_params"]["model"].startswith("gemini-image/")
    for row in document.get("litellm_settings", {}).get("custom_provider_map", ()):
        assert row == {"provider": "gemini-image", "custom_handler": "sfumato.litellm.provider"}


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(block.text, str(block), "exec", dont_inherit=True)


@pytest.fixture(scope="module")
def service(emulator_server: Emulator) -> Iterator[str]:
    """Serve sfumato before the emulator; its client key is ``docs-key``."""
    settings = load_settings(
        api_key="any", api_base=emulator_server.url, client_keys="docs:docs-key", cache_backend="memory"
    )
    with serving(create_app(settings)) as url:
        yield url


@pytest.fixture
def request_log() -> Iterator[None]:
    """Put the logger back that examples configure."""
    logger = logging.getLogger("sfumato.requests")
    before = (logger.level, logger.propagate, logger.handlers[:])
    yield
    logger.setLevel(before[0])
    logger.propagate = before[1]
    logger.handlers[:] = before[2]


RUNNABLE = [block for block in blocks("python") if block.mark == "run"]


@pytest.mark.usefixtures("request_log")
@pytest.mark.parametrize("page", sorted({block.page for block in RUNNABLE}))
def test_marked_examples_run(
    page: str, service: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "GEMINI_API_KEY": "any",
        "GEMINI_IMAGE_API_BASE": emulator.url,
        "GEMINI_IMAGE_CACHE_DIR": str(tmp_path / "cache"),
        "SFUMATO_URL": f"{service}/v1",
        "CLIENT_KEY": "docs-key",
    }.items():
        monkeypatch.setenv(name, value)
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in RUNNABLE:
        if block.page == page:
            source = "\n" * block.line + block.text
            exec(compile(source, str(ROOT / page), "exec", dont_inherit=True), namespace)  # noqa: S102  # our own pages


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.mark == "run: pytest"], ids=str)
def test_example_tests_pass(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "test_example.py"
    file.write_text(block.text)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", file.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands_exist() -> None:
    group: Any = typer.main.get_command(command_line)
    texts = [(block.page, block.text) for block in blocks("bash")]
    for page, name in zip(PAGES, PAGE_NAMES, strict=True):
        texts += [(name, span) for span in re.findall(r"`(sfumato [^`]+)`", _FENCE.sub("", page.read_text()))]
    seen = set()
    for page_name, text in texts:
        for match in _COMMAND.finditer(text):
            command = group.commands.get(match["name"])
            assert command, f"{page_name}: sfumato {match['name']}"
            options = {option for parameter in command.params for option in parameter.opts}
            for option in re.findall(r"(?<!\S)--[a-z-]+", match["rest"]):
                assert option in options, f"{page_name}: sfumato {match['name']} {option}"
            seen.add(match["name"])
    assert seen >= {"serve", "emulator", "variants", "check"}
