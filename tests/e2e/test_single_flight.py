"""Identical requests over several worker processes: one upstream call, also when the leader dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import Emulator
from tests.support.gate import gated_emulator
from tests.support.raw_http import LOST, Connection, image_request
from tests.support.redis_server import running_redis

pytestmark = pytest.mark.anyio
WORKERS = 4
REQUESTS = 100


@dataclass
class Worker:
    """A `sfumato serve` process; its key tells which one called upstream."""

    process: subprocess.Popen[str]
    url: str
    hint: str


@contextmanager
def working(emulator: Emulator, directory: Path, **variables: str) -> Iterator[list[Worker]]:
    """Run workers that share a cache."""
    with ExitStack() as stack:
        started = []
        for number in range(WORKERS):
            hint = f"w{number:03}"
            environment = {
                **os.environ,
                "GEMINI_API_KEY": f"key-of-{hint}",
                "GEMINI_IMAGE_API_BASE": emulator.url,
                "GEMINI_IMAGE_CACHE_DIR": str(directory),
                **variables,
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "sfumato.cli", "serve", "--no-auth", "--port", "0"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.terminate)
            started.append((process, hint))
        workers = []
        for process, hint in started:
            assert process.stdout
            line = process.stdout.readline()
            workers.append(Worker(process, line.split()[-1], hint))
        yield workers


@contextmanager
def backend(name: str) -> Iterator[dict[str, str]]:
    """Yield the variables of a shared cache."""
    if name == "filesystem":
        yield {}
        return
    with running_redis() as server:
        yield {"GEMINI_IMAGE_CACHE_BACKEND": "redis", "REDIS_URL": server.url}


async def ask(client: httpx.AsyncClient, worker: Worker, prompt: str) -> int:
    try:
        answer = await client.post(f"{worker.url}/v1/images/generations", json={"prompt": prompt})
    except httpx.TransportError:
        return 0
    return answer.status_code


@pytest.mark.parametrize("name", ["filesystem", "redis"])
async def test_a_hundred_identical_requests_over_four_processes_make_one_call(
    name: str, emulator: Emulator, tmp_path: Path
) -> None:
    with backend(name) as variables, working(emulator, tmp_path / "cache", **variables) as workers:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
            prompt = "A swarm [[emulator:latency:1;id=swarm]]"
            statuses = await asyncio.gather(
                *(ask(client, workers[number % WORKERS], prompt) for number in range(REQUESTS))
            )
    assert statuses == [200] * REQUESTS
    assert len(emulator.calls()) == 1


@pytest.mark.parametrize("name", ["filesystem", "redis"])
async def test_with_the_leader_killed_there_are_exactly_two_calls(name: str, tmp_path: Path) -> None:
    """The dead leader's own clients fail with it; everybody else's picture comes from one new leader."""
    request = image_request("A swarm [[emulator:latency:2;id=killed]]")
    with (
        gated_emulator() as (emulator, gate),
        backend(name) as variables,
        working(emulator, tmp_path / "cache", **variables) as workers,
        ExitStack() as stack,
    ):
        asked = [stack.enter_context(await Connection.open(workers[n % WORKERS].url)) for n in range(REQUESTS)]
        for connection in asked:
            await connection.send(request)
        # Everybody must have asked before the leader dies, or the late ones would be told of nobody. A worker reads
        # in order: with this answer it has begun with those before.
        for worker in workers:
            with await Connection.open(worker.url) as probe:
                assert (await probe.get("/gemini-image/health")).status == 200
        while not (calls := await asyncio.to_thread(emulator.calls)):  # noqa: ASYNC110  # the leader is elsewhere
            await asyncio.sleep(0.02)
        (leader,) = (worker for worker in workers if worker.hint == calls[0]["key_hint"])
        leader.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(leader.process.wait, 60)
        gate.open()
        answers = await asyncio.gather(*(connection.ask(b"") for connection in asked))
        calls = await asyncio.to_thread(emulator.calls)
    per_worker = REQUESTS // WORKERS
    assert Counter(answer.status for answer in answers) == {LOST: per_worker, 200: REQUESTS - per_worker}
    assert len(calls) == 2
