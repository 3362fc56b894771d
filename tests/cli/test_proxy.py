from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Command
from tests.conftest import Emulator
from tests.support.proxy import running_proxy

BODY = {"model": "gemini-3-pro-image", "prompt": "The last fox [[emulator:latency:3]]"}


def test_it_serves_with_several_workers_and_ends_what_it_began(emulator: Emulator, tmp_path: Path) -> None:
    answers: list[httpx.Response] = []

    def ask(url: str) -> None:
        headers = {"Authorization": "Bearer sk-team-a"}
        answers.append(httpx.post(f"{url}/v1/images/generations", json=BODY, headers=headers, timeout=60))

    with running_proxy(emulator.url, tmp_path, way="command", workers=2) as proxy:
        asking = threading.Thread(target=ask, args=(proxy.url,))
        asking.start()
        while not emulator.calls():
            pass
        proxy.process.send_signal(signal.SIGTERM)
        asking.join(timeout=60)

        assert proxy.process.wait(60) == 0
    assert answers[0].status_code == 200
    assert answers[0].headers["x-gemini-image-model"] == "gemini-3-pro-image"


def test_without_a_configuration_it_does_not_start(sfumato: Command, tmp_path: Path) -> None:
    ended = sfumato("proxy", "--config", str(tmp_path / "none.yaml"))

    assert ended.status == 1
    assert "--config: there is no file" in ended.err


def test_a_wrong_variable_ends_the_start(sfumato: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_SAFETY_THRESHOLD", "MEDUIM")
    config = tmp_path / "config.yaml"
    config.write_text("model_list: []")

    ended = sfumato("proxy", "--config", str(config))

    assert ended.status == 1
    assert "GEMINI_IMAGE_SAFETY_THRESHOLD" in ended.err


def test_without_the_proxy_extra_it_says_which_to_install(
    sfumato: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)

    ended = sfumato("proxy", "--config", str(tmp_path / "config.yaml"))

    assert ended.status == 1
    assert "pip install 'sfumato[proxy]'" in ended.err
