"""Fifty clients leave while their pictures are rendered: none is lost, none is paid for twice."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import Emulator
from tests.support.gate import gated_emulator
from tests.support.redis_server import running_redis

pytestmark = pytest.mark.anyio
CLIENTS = 50
ADMIN = {"Authorization": "Bearer sk-admin"}


@contextmanager
def serving(emulator: Emulator, directory: Path, *, workers: int = 1, **variables: str) -> Iterator[list[str]]:
    """Run servers that share a cache; yield their addresses."""
    environment = {
        **os.environ,
        "GEMINI_API_KEY": "a-key-of-mine",
        "GEMINI_IMAGE_API_BASE": emulator.url,
        "GEMINI_IMAGE_CACHE_DIR": str(directory),
        "GEMINI_IMAGE_ADMIN_KEY": "sk-admin",
        **variables,
    }
    with ExitStack() as stack:
        started = []
        for _ in range(workers):
            process = subprocess.Popen(
                [sys.executable, "-m", "sfumato.cli", "serve", "--no-auth", "--port", "0"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.terminate)
            started.append(process)
        yield [(process.stdout.readline() if process.stdout else "").split()[-1] for process in started]


def running_calls(emulator: Emulator) -> int:
    return sum(call["status"] is None for call in emulator.calls())


async def call_and_wait(url: str, prompt: str) -> asyncio.StreamWriter:
    """Send a request on a connection of its own, whose answer is not read."""
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps({"prompt": prompt}).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return writer


async def test_fifty_clients_leave_and_come_again(tmp_path: Path) -> None:
    prompts = [f"picture {number} [[emulator:latency:2]]" for number in range(CLIENTS)]
    with gated_emulator() as (emulator, gate), serving(emulator, tmp_path) as (url,):
        writers = [await call_and_wait(url, prompt) for prompt in prompts]
        while await asyncio.to_thread(running_calls, emulator) < CLIENTS:  # noqa: ASYNC110  # the server is elsewhere
            await asyncio.sleep(0.02)
        for writer in writers:
            writer.transport.abort()
        gate.open()
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            while (await client.get("/gemini-image/cache", headers=ADMIN)).json()["stats"]["entries"] < CLIENTS:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            answers = [await client.post("/v1/images/generations", json={"prompt": prompt}) for prompt in prompts]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-gemini-image-cache"] for answer in answers} == {"hit"}
        calls = await asyncio.to_thread(emulator.calls)
        assert [call["status"] for call in calls] == [200] * CLIENTS


@pytest.mark.parametrize("backend", ["filesystem", "redis"])
async def test_a_key_finds_its_picture_at_another_server(tmp_path: Path, backend: str) -> None:
    """A fresh picture is wanted, so only the key tells that it is the same request: running, and finished."""
    body = {"prompt": "fresh [[emulator:latency:1]]", "cache": {"no-cache": True}}
    headers = {"Idempotency-Key": "a-key-of-the-client"}
    with gated_emulator() as (emulator, gate), ExitStack() as stack:
        variables = {}
        if backend == "redis":
            server = stack.enter_context(running_redis())
            variables = {"GEMINI_IMAGE_CACHE_BACKEND": "redis", "REDIS_URL": server.url}
        first, second = stack.enter_context(serving(emulator, tmp_path, workers=2, **variables))
        async with httpx.AsyncClient(timeout=60) as client:

            async def ask(url: str, **more: str) -> httpx.Response:
                return await client.post(f"{url}/v1/images/generations", json=body, headers={**headers, **more})

            running = asyncio.create_task(ask(first))
            while not await asyncio.to_thread(running_calls, emulator):  # noqa: ASYNC110  # the server is elsewhere
                await asyncio.sleep(0.02)
            joining = asyncio.create_task(ask(second))
            # It begins first: its connection is the earlier one.
            await asyncio.sleep(0)
            assert (await client.get(f"{second}/gemini-image/health")).status_code == 200
            gate.open()
            joined, made = await joining, await running
            finished = await ask(second)
            assert [answer.status_code for answer in (made, joined, finished)] == [200] * 3
            assert [answer.headers["x-gemini-image-cache"] for answer in (made, joined, finished)] == [
                "bypass",
                "hit",
                "hit",
            ]
            assert len(await asyncio.to_thread(emulator.calls)) == 1
            other = await client.post(
                f"{second}/v1/images/generations", json={**body, "prompt": "another"}, headers=headers
            )
            assert (other.status_code, other.json()["error"]["param"]) == (400, "Idempotency-Key")
