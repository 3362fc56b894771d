"""The epic's cache cases, end to end by their names: the openai client, our app, the emulator, every backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from sfumato.asgi.app import create_app
from sfumato.settings import load_settings
from tests.conftest import Emulator
from tests.support.redis_server import running_redis
from tests.support.servers import serving

MODEL = "gemini-3-pro-image"


@contextmanager
def backend(name: str, directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the settings of a cache."""
    if name == "redis":
        with running_redis() as server:
            yield {"cache_backend": "redis", "redis_url": server.url}
    elif name == "s3":
        yield {"cache_backend": "s3", "cache_url": f"file://{directory}"}
    else:
        yield {"cache_backend": name, "cache_dir": directory, "cache_memory_mb": 8}


@pytest.fixture(params=["memory", "filesystem", "redis", "s3"])
def client(request: pytest.FixtureRequest, emulator: Emulator, tmp_path: Path) -> Iterator[OpenAI]:
    with backend(request.param, tmp_path) as values:
        app = create_app(load_settings(api_key="k", api_base=emulator.url, **values), anonymous=True)
        with serving(app) as url, OpenAI(base_url=f"{url}/v1", api_key="any") as openai:
            yield openai


def generate(client: OpenAI, prompt: str, **options: Any) -> Any:
    return client.images.with_raw_response.generate(model=MODEL, prompt=prompt, **options)


def test_cached_generation_e2e(client: OpenAI, emulator: Emulator) -> None:
    """The second answer is the first one's picture, from whichever backend, in whichever form is asked for."""
    first = generate(client, "A jetty")
    again = generate(client, "A jetty", response_format="url")
    other = generate(client, "A jetty", size="1024x1536")

    assert first.headers["x-gemini-image-cache"] == "miss"
    assert first.headers["cache-status"] == "sfumato; fwd=miss; stored"
    assert again.headers["x-gemini-image-cache"] == "hit"
    assert again.parse().data[0].url.partition(",")[2] == first.parse().data[0].b64_json
    assert other.headers["x-gemini-image-cache"] == "miss", "size is part of the key"
    assert len(emulator.calls()) == 2


def test_cache_hit_reduces_cost(client: OpenAI, emulator: Emulator) -> None:
    """Ten requests for three pictures cost three."""
    prompts = [f"A boat, number {number % 3}" for number in range(10)]
    paid = sum(float(generate(client, prompt).headers["x-gemini-image-cost"]) for prompt in prompts)

    assert len(emulator.calls()) == 3
    assert paid == pytest.approx(sum(float(call["cost_usd"]) for call in emulator.calls()), abs=1e-5)
