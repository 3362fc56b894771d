"""What a hit costs beside a static file of the same bytes, what slow readers hold, and how long the event loop stalls.

::

    python -m tests.benchmarks.hits [--sizes 1,8] [--rounds N] [--seconds S] [--readers N] [--json FILE]

It needs ``wrk`` and starts everything else itself: ``sfumato serve`` with the filesystem backend, a Gemini whose
pictures have the size asked for, and Starlette's FileResponse under the same uvicorn. Rounds are interleaved (A B B A),
so a slow moment of the machine meets both; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
from rich.console import Console

from tests.benchmarks.hits_servers import DIRECTORY_VARIABLE
from tests.benchmarks.measuring import median_ratio
from tests.benchmarks.stalls import ROUTE, measure_stalls
from tests.support.ports import free_port

_READER_BYTES_PER_SECOND = 10_000
_READER_PAUSE_SECONDS = 0.01
# Else the kernel would take megabytes of each answer: of 500 at once, gigabytes.
_READER_BUFFER_BYTES = 16 * 1024
_SCRIPT = """
wrk.method = "POST"
wrk.body = os.getenv("SFUMATO_BENCHMARK_BODY")
wrk.headers["content-type"] = "application/json"
done = function(summary, latency)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format("FIGURES %f %f %f %d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, bad))
end
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk gave; times in milliseconds."""

    rate: float
    p50: float
    p95: float


class Bench:
    """The servers and the loads on them.

    Args:
        directory: For the cache, the static files and wrk's script.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._script = directory / "post.lua"
        self._script.write_text(_SCRIPT)
        self._files = directory / "files"
        self._files.mkdir()
        self._processes = contextlib.ExitStack()
        self.upstream = self._serve("tests.benchmarks.hits_servers:create_upstream")
        self.floor = self._serve("tests.benchmarks.hits_servers:create_floor")
        self.ours = ""
        self.pid = 0

    def __enter__(self) -> Self:
        environment = self.environment | {"GEMINI_IMAGE_CACHE_DIR": str(self._directory / "cache")}
        command = [sys.executable, "-m", "sfumato.cli", "serve", "--no-auth", "--port", "0"]
        process = self._start(command, environment)
        assert process.stdout is not None
        self.ours = process.stdout.readline().decode().split()[-1]
        self.pid = process.pid
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    @property
    def environment(self) -> dict[str, str]:
        """Return what a server of ours needs to know, but for the cache's place."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GEMINI_", "CACHE_"))}
        told = {"GEMINI_API_KEY": "benchmark", "GEMINI_IMAGE_API_BASE": self.upstream, "NO_COLOR": "1"}
        return inherited | told

    def prime(self, size_mb: float) -> int:
        """Have a picture of *size_mb* cached and its answer stand among the static files; return the answer's size."""
        answer = self._ask(size_mb)
        while answer.headers["x-gemini-image-cache"] != "hit":
            # A picture may be stored after its answer.
            time.sleep(0.05)
            answer = self._ask(size_mb)
        (self._files / f"{size_mb:g}").write_bytes(answer.content)
        return len(answer.content)

    def hits(self, size_mb: float, *, connections: int, seconds: float) -> Load:
        """Load ourselves with hits."""
        return self._wrk(self.ours + ROUTE, size_mb, connections, seconds)

    def static(self, size_mb: float, *, connections: int, seconds: float) -> Load:
        """Load the static server with the same bytes."""
        return self._wrk(f"{self.floor}/{size_mb:g}", size_mb, connections, seconds)

    def _ask(self, size_mb: float) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return httpx.post(self.ours + ROUTE, content=_body(size_mb), headers=headers, timeout=60).raise_for_status()

    def _wrk(self, url: str, size_mb: float, connections: int, seconds: float) -> Load:
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--timeout",
            "20s",
            "-s",
            str(self._script),
            url,
        ]
        environment = os.environ | {"SFUMATO_BENCHMARK_BODY": _body(size_mb).decode()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found = re.search(r"FIGURES (\S+) (\S+) (\S+) (\d+)", done.stdout)
        if found is None or int(found[4]):
            raise RuntimeError(done.stdout + done.stderr)
        return Load(float(found[1]), float(found[2]), float(found[3]))

    def _serve(self, app: str) -> str:
        port = free_port()
        options = ["--factory", "--port", str(port), "--no-access-log", "--log-level", "warning", "--no-server-header"]
        environment = os.environ | {DIRECTORY_VARIABLE: str(self._files)}
        self._start([sys.executable, "-m", "uvicorn", app, *options], environment)
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                return url
            time.sleep(0.05)
        raise RuntimeError(f"{app} did not start")

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._processes.callback(process.wait)
        self._processes.callback(process.terminate)
        return process


def _body(size_mb: float) -> bytes:
    return json.dumps({"model": "gemini-3-pro-image", "prompt": f"A picture of {size_mb:g} MB"}).encode()


def measure_rates(bench: Bench, size_mb: float, *, rounds: int, seconds: float) -> dict[str, float]:
    """Compare requests per second at 8 connections and the latency at one."""
    size = bench.prime(size_mb)
    bench.hits(size_mb, connections=8, seconds=1)
    bench.static(size_mb, connections=8, seconds=1)
    ours: list[float] = []
    static: list[float] = []
    for _ in range(rounds):
        ours.append(bench.hits(size_mb, connections=8, seconds=seconds).rate)
        static.append(bench.static(size_mb, connections=8, seconds=seconds).rate)
        static.append(bench.static(size_mb, connections=8, seconds=seconds).rate)
        ours.append(bench.hits(size_mb, connections=8, seconds=seconds).rate)
    alone = bench.hits(size_mb, connections=1, seconds=seconds)
    return {
        "size_mb": size_mb,
        "answer_bytes": size,
        "hits_per_second": round(statistics.median(ours), 1),
        "static_per_second": round(statistics.median(static), 1),
        "ratio": round(median_ratio(ours, static), 3),
        "p50_ms_alone": round(alone.p50, 2),
        "p95_ms_alone": round(alone.p95, 2),
        "static_p50_ms_alone": round(bench.static(size_mb, connections=1, seconds=seconds).p50, 2),
    }


async def measure_readers(bench: Bench, size_mb: float, *, readers: int, seconds: float) -> dict[str, float]:
    """Compare memory, and others' latency, without and with many slow readers of large hits.

    100 of them begin a second. The bench's own process reads for them, and takes its share of the machine.
    """
    await asyncio.to_thread(bench.prime, size_mb)
    await asyncio.to_thread(bench.prime, 1)
    before = await asyncio.to_thread(bench.hits, 1, connections=1, seconds=seconds)
    held = peak = _resident_bytes(bench.pid)
    host, port = bench.ours.removeprefix("http://").split(":")
    reading: list[asyncio.Task[None]] = []
    for _ in range(readers):
        reading.append(asyncio.create_task(_read_slowly(host, int(port), _body(size_mb))))
        await asyncio.sleep(_READER_PAUSE_SECONDS)
        peak = max(peak, _resident_bytes(bench.pid))
    load = asyncio.create_task(asyncio.to_thread(bench.hits, 1, connections=1, seconds=seconds))
    while not load.done():
        await asyncio.sleep(0.1)
        peak = max(peak, _resident_bytes(bench.pid))
    alive = sum(not task.done() for task in reading)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    after = await asyncio.to_thread(bench.hits, 1, connections=1, seconds=seconds)
    during = await load
    return {
        "readers": alive,
        "size_mb": size_mb,
        "grown_mb": round((peak - held) / 1e6, 1),
        "others_p95_ms_before": round(before.p95, 2),
        "others_p95_ms_during": round(during.p95, 2),
        "others_p95_ms_after": round(after.p95, 2),
        "others_p50_ratio": round(2 * during.p50 / (before.p50 + after.p50), 2),
        "others_p95_ratio": round(2 * during.p95 / (before.p95 + after.p95), 2),
    }


async def _read_slowly(host: str, port: int, body: bytes) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READER_BUFFER_BYTES)
    connection.setblocking(False)  # noqa: FBT003 - the socket's own signature
    await asyncio.get_running_loop().sock_connect(connection, (host, port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=_READER_BUFFER_BYTES)
    head = f"POST {ROUTE} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    with contextlib.closing(writer):
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        while await reader.read(_READER_BYTES_PER_SECOND):  # noqa: ASYNC110 - it waits for no event: it is slow
            await asyncio.sleep(1)


def _resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@contextlib.contextmanager
def _bench() -> Iterator[tuple[Bench, Path]]:
    with tempfile.TemporaryDirectory() as name, Bench(Path(name)) as bench:
        yield bench, Path(name)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hits", description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="1,8", help="megabytes, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--readers", type=int, default=500, help="slow ones, of 8 MB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is not installed: apt-get install wrk")
    console = Console(width=150)
    figures: dict[str, list[dict[str, float]]] = {"rates": [], "readers": [], "stalls": []}
    with _bench() as (bench, directory):
        for size in options.sizes.split(","):
            figures["rates"].append(measure_rates(bench, float(size), rounds=options.rounds, seconds=options.seconds))
            console.print(figures["rates"][-1])
        if options.readers:
            figures["readers"].append(
                asyncio.run(measure_readers(bench, 8, readers=options.readers, seconds=options.seconds))
            )
            console.print(figures["readers"][-1])
        for size in (1.0, 8.0, 20.0):
            place = directory / "stalls"
            measured = measure_stalls(size, environment=bench.environment, directory=place, rounds=3 * options.rounds)
            figures["stalls"].append(asyncio.run(measured))
            console.print(figures["stalls"][-1])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
