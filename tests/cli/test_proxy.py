from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Command
from tests.conftest import Emulator
from tests.support import samples
from tests.support.proxy import Way, proxy_config, running_proxy

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
            time.sleep(0.05)
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


@pytest.mark.parametrize("way", ["plain", "command"])
def test_the_first_request_of_a_process_may_be_a_masked_edit(emulator: Emulator, tmp_path: Path, way: Way) -> None:
    config = proxy_config(emulator.url)
    # Not a list: LiteLLM then replaces the callbacks that are there.
    config["litellm_settings"]["callbacks"] = "keys.watcher"
    picture = samples.encoded(samples.noise(64, 48))
    files = {"image": ("a.png", picture), "mask": ("m.png", samples.mask(64, 48, (0, 0, 8, 8)))}
    with running_proxy(emulator.url, tmp_path, way=way, config=config) as proxy:
        answer = httpx.post(
            f"{proxy.url}/v1/images/edits",
            headers={"Authorization": "Bearer sk-team-a"},
            data={"model": "with-defaults", "prompt": "A hat"},
            files=files,
            timeout=60,
        )

    assert answer.status_code == 200, answer.text
    # The deployment's n, and each time the picture and its mask.
    assert len(answer.json()["data"]) == len(emulator.calls()) == 2
    for call in emulator.calls():
        assert sum("inlineData" in part for part in call["body"]["contents"][0]["parts"]) == 2
