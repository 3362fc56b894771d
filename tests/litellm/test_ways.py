"""The ways to run LiteLLM's proxy with the middleware that `sfumato proxy` is not, each with several workers."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.image_cache import ImageCache
from sfumato.cache.invalidation import parse_filter
from tests.conftest import Emulator
from tests.litellm.conftest import PROXY_MODEL as MODEL
from tests.litellm.conftest import generate
from tests.support import samples
from tests.support.otlp_receiver import receiving
from tests.support.proxy import Proxy, Way, assisted_config, running_proxy

LEFT = "The fox of a client that leaves [[emulator:latency:3]]"


@pytest.mark.parametrize("way", ["uvicorn", "hook"])
def test_every_worker_is_assisted_and_ends_what_it_began(
    emulator_server: Emulator, other_provider: str, tmp_path: Path, way: Way
) -> None:
    config = assisted_config(emulator_server.url, other_provider)
    with (
        receiving() as receiver,
        running_proxy(
            emulator_server.url,
            tmp_path,
            way=way,
            workers=2,
            config=config,
            environment={
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_url,
                # Nothing is sent before the end.
                "OTEL_BSP_SCHEDULE_DELAY": "600000",
            },
        ) as proxy,
    ):
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

        left_trace, last_answer = _ask_and_end(proxy, emulator_server)
        assert last_answer.status_code == 200
        assert proxy.process.wait(timeout=60) is not None
        assert asyncio.run(_held(tmp_path / "cache", LEFT)) == 1
        assert left_trace in {span.trace_id for span in receiver.spans}


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


def _ask_and_end(proxy: Proxy, emulator: Emulator) -> tuple[str, Any]:
    """Ask for two pictures that take a while, leave one, and tell the proxy to end meanwhile.

    Returns:
        The trace of the picture that was left, and the answer of the other one.
    """
    emulator.clear()
    trace = secrets.token_hex(16)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(generate(proxy, "The last fox [[emulator:latency:3]]")))
    asking.start()
    with _asked(proxy, LEFT, trace):
        while len(emulator.calls()) < 2:
            time.sleep(0.05)
    proxy.process.send_signal(signal.SIGTERM)
    asking.join(timeout=60)
    return trace, answers[0]


def _asked(proxy: Proxy, prompt: str, trace: str) -> socket.socket:
    """Ask and return the connection, on which the answer would come."""
    url = httpx.URL(f"{proxy.url}/v1/images/generations")
    request = httpx.Request(
        "POST",
        url,
        headers={"Authorization": "Bearer sk-team-a", "traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"},
        json={"model": MODEL, "prompt": prompt},
    )
    head = [f"POST {url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items()), "", ""]
    connection = socket.create_connection((url.host, url.port or 80))
    connection.sendall("\r\n".join(head).encode() + request.read())
    return connection


async def _held(directory: Path, prompt: str) -> int:
    """Return how many pictures of *prompt* a cache holds."""
    cache = ImageCache(FilesystemStore(directory, 1_000_000_000), ttl_seconds=60)
    return len([entry async for entry in cache.entries(parse_filter(prompt=prompt))])
