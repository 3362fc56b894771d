"""The ways to run LiteLLM's proxy with the middleware that `sfumato proxy` is not, each with several workers."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Emulator
from tests.litellm.conftest import PROXY_MODEL as MODEL
from tests.litellm.conftest import generate
from tests.support import samples
from tests.support.proxy import Proxy, Way, assisted_config, running_proxy


@pytest.mark.parametrize("way", ["uvicorn", "hook"])
def test_every_worker_is_assisted_and_ends_what_it_began(
    emulator_server: Emulator, other_provider: str, tmp_path: Path, way: Way
) -> None:
    config = assisted_config(emulator_server.url, other_provider)
    with running_proxy(emulator_server.url, tmp_path, way=way, workers=2, config=config) as proxy:
        answers = _ask_together(proxy, 8)

        assert all(answer.headers["x-gemini-image-model"] == MODEL for answer in answers)
        for answer in answers:
            assert samples.from_base64(answer.json()["data"][0]["b64_json"]).width > 0
        assert all(proxy.seen(f"Worker's fox {place}")[0].startswith("c2Z1bWF0by1sYXRl") for place in range(8))
        refused = httpx.post(
            f"{proxy.url}/v1/images/generations",
            headers={"Authorization": "Bearer sk-team-a"},
            json={"model": f"{MODEL}-8k", "prompt": "x"},
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert httpx.get(f"{proxy.url}/gemini-image/health").status_code == 200

        assert _ask_and_end(proxy, emulator_server).status_code == 200
        assert proxy.process.wait(timeout=60) is not None


def _ask_together(proxy: Proxy, count: int) -> list[httpx.Response]:
    """Ask on connections of their own, so that workers share the requests."""
    answers: list[httpx.Response] = []

    def ask(place: int) -> None:
        answers.append(generate(proxy, f"Worker's fox {place}").http_response)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == count
    return answers


def _ask_and_end(proxy: Proxy, emulator: Emulator) -> Any:
    """Ask for a picture that takes a while, and tell the proxy to end meanwhile."""
    emulator.clear()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(generate(proxy, "The last fox [[emulator:latency:3]]")))
    asking.start()
    while not emulator.calls():
        pass
    proxy.process.send_signal(signal.SIGTERM)
    asking.join(timeout=60)
    return answers[0]
