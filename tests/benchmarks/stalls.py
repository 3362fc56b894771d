"""By how much pictures hold up the event loop of a server of ours; `tests.benchmarks.hits` runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import uvicorn

from sfumato.asgi.app import create_app
from sfumato.settings import Settings
from tests.benchmarks.measuring import Work, percentile, stalled
from tests.support.ports import free_port

ROUTE = "/v1/images/generations"


async def measure_stalls(
    size_mb: float, *, environment: Mapping[str, str], directory: Path, rounds: int
) -> dict[str, float]:
    """Measure how late the event loop of a server of ours is while it makes, stores and serves pictures.

    Args:
        size_mb: Of each picture.
        environment: Names the upstream.
        directory: For the cache.
        rounds: Misses, and hits.
    """
    os.environ.update({name: value for name, value in environment.items() if name.startswith("GEMINI_")})
    async with _served(Settings(cache_dir=directory, log_level="ERROR")) as url:
        stalls: dict[str, list[float]] = {"idle": [], "miss": [], "hit": []}
        # The first request loads what is loaded lazily.
        await (await _prepared(url, b'{"model": "gemini-3-pro-image", "prompt": "warm"}'))()
        for number in range(rounds):
            body = json.dumps(
                {"model": "gemini-3-pro-image", "prompt": f"A picture of {size_mb:g} MB, {number} of a series"}
            ).encode()
            stalls["idle"].append(await stalled(lambda: asyncio.sleep(0.1)))
            for kind in ("miss", "hit"):
                stalls[kind].append(await stalled(await _prepared(url, body)))
                # What is stored after an answer is stored now.
                await asyncio.sleep(0.3)
    return {"size_mb": size_mb} | {
        f"{name}_{word}_ms": round(value * 1000, 1)
        for name, values in stalls.items()
        for word, value in (("p50", percentile(values, 50)), ("max", max(values)))
    }


@contextlib.asynccontextmanager
async def _served(settings: Settings) -> AsyncIterator[str]:
    port = free_port()
    config = uvicorn.Config(create_app(settings, anonymous=True), port=port, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}{ROUTE}"
    finally:
        server.should_exit = True
        await serving


async def _prepared(url: str, body: bytes) -> Work:
    """Return one request by a client that runs already: starting a process would hold up the event loop by itself."""
    command = ("curl", "-sS", "--fail", "-o", os.devnull, "-H", "content-type: application/json", "-d", body.decode())
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", 'read begin && exec "$@"', "sh", *command, url, stdin=asyncio.subprocess.PIPE
    )

    async def ask() -> None:
        await process.communicate(b"begin\n")
        if process.returncode:
            raise RuntimeError("curl failed")

    return ask
