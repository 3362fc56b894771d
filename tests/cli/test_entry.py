from __future__ import annotations

import subprocess
import sys

import pytest

import sfumato as package
from tests.cli.conftest import SFUMATO, Command

HEAVY = (
    "litellm",
    "redis",
    "PIL",
    "google",
    "opentelemetry",
    "typer",
    "rich",
    "uvicorn",
    "pydantic",
    "httpx",
    "openai",
)


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that *code* leaves loaded in a fresh interpreter."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in told.stdout.splitlines()[-1].split()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import sfumato").intersection(HEAVY)


@pytest.mark.parametrize("module", ["sfumato.asgi.app", "sfumato.cli.serve"])
def test_serving_loads_no_litellm_and_no_clients(module: str) -> None:
    assert not loaded_after(f"import {module}").intersection({"litellm", "openai", "redis", "google"})


def test_the_commands_load_with_little() -> None:
    assert not loaded_after("import sfumato.cli.app").intersection(set(HEAVY) - {"typer"})


@pytest.mark.parametrize("name", ["typer", "rich", "uvicorn"])
def test_without_the_extra_it_says_which_to_install(name: str) -> None:
    code = f"import sys; sys.modules['{name}'] = None; from sfumato.cli import main; main()"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines() == [
        "sfumato: the command line needs its extra: pip install 'sfumato[cli]'"
    ]


def test_version_and_help(sfumato: Command) -> None:
    assert sfumato("--version").out.strip() == f"sfumato {package.__version__}"
    told = sfumato("--help").out
    for command in ("serve", "emulator", "demo", "variants", "check"):
        assert f" {command} " in told


def test_the_module_runs_the_same_command() -> None:
    told = subprocess.run([*SFUMATO, "variants", "--plain"], capture_output=True, text=True, check=True)

    assert "gemini-3-pro-image-4k-16x9" in told.stdout.splitlines()
