"""What taking an answer apart costs, and what each way to an upstream's bytes makes of it.

::

    python -m tests.benchmarks.lifting [--sizes 1,8,20] [--concurrency 1,8,32] [--seconds N] [--rounds N] [--json FILE]

The first table is the lifter beside a join and msgspec.Raw, over chunks as sockets give them. The second is answers per
second through `GeminiTransport`: over our transport, over httpx-aiohttp (where it is installed), over httpx's own pool;
``aiohttp`` feeds the lifter from plain aiohttp, the limit. The upstream is a process of its own that sends prebuilt
bytes. The ways of a round are measured in turn, in a process each; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import msgspec
import pybase64
from rich.console import Console
from rich.table import Table

from sfumato.upstream.accounts import Account
from sfumato.upstream.transport import GeminiTransport, create_http_client
from sfumato.wire.lifter import Lifted, Lifter
from tests.benchmarks.measuring import _status_bytes

MEGABYTE = 1_000_000
_CHUNKS = (16 * 1024, 64 * 1024, 256 * 1024)
_WAYS = ("aiohttp", "ours", "httpx-aiohttp", "httpx")
_MODEL = "gemini-3-pro-image"
_HALF_MINUTE = 30


class _Data(msgspec.Struct):
    data: msgspec.Raw


def body_of(size_mb: float) -> bytes:
    """Return an answer with a picture of *size_mb* decoded megabytes."""
    encoded = pybase64.b64encode(os.urandom(int(size_mb * MEGABYTE)))
    return b'{"candidates":[{"content":{"parts":[{"inlineData":{"data":"%b"}}]}}],"usageMetadata":{}}' % encoded


def lifting(size_mb: float, rounds: int) -> list[dict[str, Any]]:
    """Measure the lifter beside a join and msgspec.Raw; megabytes of JSON per second."""
    body = b'{"data":"%b"}' % pybase64.b64encode(os.urandom(int(size_mb * MEGABYTE)))
    decoder = msgspec.json.Decoder(_Data)

    def lifted(parts: list[bytes]) -> object:
        lifter = Lifter()
        for part in parts:
            lifter.feed(part)
        return lifter.finish()

    def joined(parts: list[bytes]) -> object:
        whole = bytearray()
        for part in parts:
            whole += part
        return decoder.decode(whole)

    rows = []
    for chunk_bytes in _CHUNKS:
        parts = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
        times: dict[str, list[float]] = {"lifter": [], "join": []}
        for _ in range(rounds):
            for name, work in (("lifter", lifted), ("join", joined)):
                started = time.perf_counter()
                work(parts)
                times[name].append(time.perf_counter() - started)
        speeds = {name: len(body) / MEGABYTE / statistics.median(found) for name, found in times.items()}
        rows.append({"size_mb": size_mb, "chunk_bytes": chunk_bytes, **speeds})
    return rows


async def serve(size_mb: float) -> None:
    """Answer every request with the same bytes; print the port."""
    body = body_of(size_mb)
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


async def call(way: str, port: int, concurrency: int, seconds: float) -> dict[str, float]:
    """Ask for answers by one way; returns requests per second, CPU milliseconds per request and peak MB."""
    account = Account.at("bench", "key", f"http://127.0.0.1:{port}", "v1beta")
    one, close = _way(way, account)
    await one()
    latencies: list[float] = []
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)

    async def work() -> None:
        while (begun := time.perf_counter()) < started + seconds:
            await one()
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(work() for _ in range(concurrency)))
    took = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    await close()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "rps": len(latencies) / took,
        "cpu_ms": cpu * 1000 / len(latencies),
        "p50_ms": statistics.median(latencies) * 1000,
        "peak_mb": _status_bytes("VmHWM") / MEGABYTE,
    }


def _way(way: str, account: Account) -> tuple[Callable[[], Awaitable[Lifted]], Callable[[], Awaitable[None]]]:
    if way == "aiohttp":
        session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))

        async def plain() -> Lifted:
            lifter = Lifter()
            async with session.post(account.url(_MODEL), data=b"{}") as response:
                while chunk := await response.content.readany():
                    lifter.feed(chunk)
            return lifter.finish()

        return plain, session.close
    client = _client(way)
    transport = GeminiTransport(client, max_response_bytes=1 << 30)
    return lambda: transport.generate(account, _MODEL, (b"{}",)), client.aclose


def _client(way: str) -> httpx.AsyncClient:
    if way == "ours":
        return create_http_client(connect_timeout_seconds=10)
    if way == "httpx":
        return httpx.AsyncClient(timeout=None, trust_env=False)  # noqa: S113  # the benchmark bounds it
    foreign = importlib.import_module("httpx_aiohttp")
    return httpx.AsyncClient(transport=foreign.AiohttpTransport(), timeout=None, trust_env=False)  # noqa: S113  # as above


def transports(sizes: list[float], levels: list[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure every way at every size and concurrency."""
    ways = [way for way in _WAYS if way != "httpx-aiohttp" or importlib.util.find_spec("httpx_aiohttp")]
    rows = []
    for size_mb in sizes:
        with subprocess.Popen(_again("serve", size_mb), stdout=subprocess.PIPE, text=True) as upstream:
            assert upstream.stdout is not None
            port = upstream.stdout.readline().strip()
            for concurrency in levels:
                found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
                for number in range(rounds):
                    for way in ways if number % 2 == 0 else ways[::-1]:
                        command = _again("call", way, port, concurrency, seconds)
                        limit = seconds + _HALF_MINUTE
                        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit)
                        found[way].append(json.loads(done.stdout))
                for way, figures in found.items():
                    medians = {name: statistics.median(row[name] for row in figures) for name in figures[0]}
                    rows.append({"size_mb": size_mb, "concurrency": concurrency, "way": way, **medians})
            upstream.terminate()
    return rows


def _again(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.lifting", *map(str, arguments)]


def main() -> None:
    """Run the benchmark, or one of its processes."""
    match sys.argv[1:]:
        case ["serve", size_mb]:
            asyncio.run(serve(float(size_mb)))
        case ["call", way, port, concurrency, seconds]:
            sys.stdout.write(json.dumps(_run(call(way, int(port), int(concurrency), float(seconds)))))
        case _:
            _measure()


def _run(work: Any) -> Any:
    uvloop = importlib.import_module("uvloop")
    return uvloop.run(work)


def _measure() -> None:
    parser = argparse.ArgumentParser(description="Taking answers apart, and the ways to an upstream's bytes.")
    parser.add_argument("--sizes", default="1,8,20")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [float(size) for size in options.sizes.split(",")]
    levels = [int(level) for level in options.concurrency.split(",")]
    lifted = [row for size in sizes for row in lifting(size, options.rounds * 5)]
    console = Console()
    console.print(_table("The lifter", lifted))
    sent = transports(sizes, levels, options.rounds, options.seconds)
    console.print(_table("Answers", sent))
    if options.json:
        options.json.write_text(json.dumps({"lifter": lifted, "answers": sent}, indent=2) + "\n")


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


if __name__ == "__main__":
    main()
