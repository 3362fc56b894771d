"""Fixtures that every room may use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import httpx
import pytest
from hypothesis import settings

from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.settings import PREFIX
from tests.support.proxy import Proxy, running_proxy
from tests.support.redis_server import RedisServer, running_redis
from tests.support.servers import serving
from tests.support.sharing import SharingFiles, rank

# How long an example takes is the machine's affair.
settings.register_profile("sfumato", deadline=None)
settings.load_profile("sfumato")

PassBy: TypeAlias = Callable[[float], None]
_FOREIGN = ("GEMINI_API_", "GOOGLE_", "CACHE_", "REDIS_URL", "OTEL_")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--live", action="store_true", help="run the end-to-end tests against the real Gemini API")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let a worker run files that share a server one after the other, so that it is started once."""
    return SharingFiles(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid))
    if config.getoption("--live"):
        return
    skip = pytest.mark.skip(reason="calls the real API: run with --live and GEMINI_API_KEY")
    for item in items:
        if "live" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def live_key(request: pytest.FixtureRequest) -> str | None:
    """The real API's key when --live asks for it."""
    return os.environ["GEMINI_API_KEY"] if request.config.getoption("--live") else None


@pytest.fixture(autouse=True)
def clean_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own configuration out of every test."""
    request.getfixturevalue("live_key")
    for name in list(os.environ):
        if name.startswith((PREFIX, *_FOREIGN)):
            monkeypatch.delenv(name)


@pytest.fixture
def anyio_backend() -> str:
    """The transport and LiteLLM run on asyncio."""
    return "asyncio"


class Emulator:
    """A running emulator: its address, and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Polled often: a client of its own each time costs more than the request.
        self._client = httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))

    def calls(self) -> list[dict[str, Any]]:
        """Return the generateContent calls since the last `clear`."""
        journal: list[dict[str, Any]] = self._client.get("/emulator/journal").json()
        return [call for call in journal if "generateContent" in str(call["path"])]

    def clear(self) -> None:
        """Forget the calls so far."""
        self._client.delete("/emulator/journal")

    def close(self) -> None:
        """End the client."""
        self._client.close()


@pytest.fixture(scope="session")
def emulator_server() -> Iterator[Emulator]:
    with serving(create_emulator(EmulatorOptions())) as url:
        emulator = Emulator(url)
        yield emulator
        emulator.close()


@pytest.fixture
def emulator(emulator_server: Emulator) -> Emulator:
    """A strict local Gemini API whose journal starts empty."""
    emulator_server.clear()
    return emulator_server


@pytest.fixture(scope="session")
def proxy(emulator_server: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A real LiteLLM proxy process with the example's config.yaml, for every room that needs one."""
    with running_proxy(emulator_server.url, tmp_path_factory.mktemp("proxy")) as running:
        yield running


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A real Redis that begins empty; the tests of a module share it."""
    with shared_redis.admin() as admin:
        admin.flushall()
    return shared_redis


@pytest.fixture
def redis_admin(redis_server: RedisServer) -> Iterator[Any]:
    """A client of the Redis, for the test's own looks and changes."""
    with redis_server.admin() as client:
        yield client


@pytest.fixture
async def pass_by(monkeypatch: pytest.MonkeyPatch) -> PassBy:
    """Let the event loop's time pass, as it does while the loop stands still."""
    loop = asyncio.get_running_loop()
    passed, clock = 0.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + passed)

    def by(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    return by
