from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx

from sfumato.emulator import SWITCHES
from tests.cli.conftest import Command, serving

PATH = "/v1beta/models/gemini-3-pro-image:generateContent"
BODY = {"contents": [{"parts": [{"text": "A red bicycle"}]}]}


def test_it_serves_with_the_switches_given(tmp_path: Path) -> None:
    options = ("--latency", "0.2", "--fault", "503;times=1", "--fault", "png", "--api-key", "mine")
    with serving("emulator", "--port", "0", *options, log=tmp_path / "log") as (url, process):
        with httpx.Client(base_url=url, headers={"x-goog-api-key": "mine"}, timeout=60) as client:
            assert client.post(PATH, json=BODY, headers={"x-goog-api-key": "other"}).status_code == 400
            assert client.post(PATH, json=BODY).status_code == 503
            began = time.monotonic()
            answer = client.post(PATH, json=BODY)
            assert time.monotonic() - began >= 0.2
        assert answer.status_code == 200
        parts = answer.json()["candidates"][0]["content"]["parts"]
        assert parts[-1]["inlineData"]["mimeType"] == "image/png"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_switches_are_listed(sfumato: Command) -> None:
    ended = sfumato("emulator", "--list-switches")

    assert ended.status == 0
    for name in SWITCHES:
        assert f" {name} " in ended.out


def test_an_unknown_switch_is_refused(sfumato: Command) -> None:
    ended = sfumato("emulator", "--fault", "explode")

    assert ended.status == 1
    assert "no emulator switch 'explode'" in ended.err
