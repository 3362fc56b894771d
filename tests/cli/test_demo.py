"""The demo itself: real processes, a real LiteLLM proxy."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sfumato.images.variants import canonical_variants
from tests.cli.conftest import SFUMATO, Command, processes_with
from tests.conftest import Emulator
from tests.support import samples

ROOT = Path(__file__).parents[2]
EXAMPLES = (
    "--config",
    str(ROOT / "examples/litellm_proxy/config.yaml"),
    "--app",
    str(ROOT / "examples/fastapi_app.py"),
)


def run_demo(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SFUMATO, "demo", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def test_the_demo_with_the_examples(tmp_path: Path) -> None:
    ended = run_demo("--out", str(tmp_path), *EXAMPLES)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Everything is as promised." in ended.stdout
    assert "MISS" not in ended.stdout
    for half in ("litellm", "fastapi"):
        assert len(list((tmp_path / half).iterdir())) == 21 + 4 + 1 + 1
        for variant in canonical_variants():
            size = variant.family.pixel_size(variant.tier, variant.aspect_ratio)
            assert samples.opened((tmp_path / half / f"{variant.name}.jpeg").read_bytes()).size == size


def test_with_a_key_it_is_the_quick_job_and_nothing_is_paid_twice(emulator: Emulator, tmp_path: Path) -> None:
    """The real API's path, with an emulator in Google's place and the demo's own config and app."""
    ended = run_demo("--out", str(tmp_path), GEMINI_API_KEY="not-googles", GEMINI_IMAGE_API_BASE=emulator.url)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "about USD 0.94" in ended.stdout
    assert "not-googles" not in ended.stdout + ended.stderr
    # Three variants, two at once, an edit, and what this Google does not refuse.
    assert len(emulator.calls()) == 7
    assert len(list((tmp_path / "fastapi").iterdir())) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_ends_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    marker = f"{tmp_path}-{number.name}"
    with subprocess.Popen(
        [*SFUMATO, "demo", "--out", str(tmp_path)],
        env={**os.environ, "SFUMATO_DEMO_MARKER": marker},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "litellm.log").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        told, _ = process.communicate(timeout=120)

    assert process.returncode == 130
    assert b"Traceback" not in told
    # Whoever was killed may need a moment to be gone.
    deadline = time.monotonic() + 60
    while processes_with(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_with(marker)


def test_without_the_proxy_extra_it_says_which_to_install(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "litellm", None)

    ended = sfumato("demo")

    assert ended.status == 1
    assert "pip install 'sfumato[proxy,cli]'" in ended.err
