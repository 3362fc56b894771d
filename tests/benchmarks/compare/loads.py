"""Loads: wrk for requests in a closed loop, and a probe that asks at fixed moments whether or not answers come."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from urllib.parse import urlsplit

from tests.benchmarks.compare.processes import Process
from tests.benchmarks.measuring import percentile

# A number in every body keeps misses misses; without a mark for it the body stays the same.
_SCRIPT = """
wrk.method = os.getenv("LOAD_METHOD")
wrk.headers["content-type"] = "application/json"
for line in string.gmatch(os.getenv("LOAD_HEADERS"), "[^\\n]+") do
  local name, value = string.match(line, "^([^:]+): (.*)$")
  wrk.headers[name] = value
end
local before, after = string.match(os.getenv("LOAD_BODY"), "^(.-)@@(.*)$")
wrk.body = os.getenv("LOAD_BODY")
if before then
  local number, series = 0, os.getenv("LOAD_SERIES")
  request = function()
    number = number + 1
    return wrk.format(nil, nil, nil, before .. series .. "-" .. number .. after)
  end
end
done = function(summary, latency)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format("FIGURES %f %f %f %f %d %d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000,
    summary.requests, bad))
end
"""
NUMBER = "@@"
"""Stands in a body for a number that no other request has."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what they say beside their body."""

    url: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    method: str = "POST"


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What a load gave, and what it cost the server; times in milliseconds, memory in MB.

    `grown` is the peak less the memory of the idle server. Requests that were running at the end are not counted, but
    their CPU time is.
    """

    rate: float
    p50: float
    p95: float
    p99: float
    count: int
    errors: int
    cpu: float
    peak: float
    grown: float


def load(
    target: Target, body: str, *, connections: int, seconds: float, server: Process, idle_mb: float = 0.0
) -> Sample:
    """Send requests over *connections*, each as soon as the last one is answered, and weigh the server meanwhile."""
    server.settle()
    server.forget_peak()
    used = server.cpu_seconds()
    rate, p50, p95, p99, count, errors = _wrk(target, body, connections, seconds)
    cpu = (server.cpu_seconds() - used) * 1000
    peak = server.peak_mb()
    if not count:
        p50 = p95 = p99 = seconds * 1000
    return Sample(
        round(rate, 2),
        round(p50, 2),
        round(p95, 2),
        round(p99, 2),
        int(count),
        int(errors),
        round(cpu / max(1, count), 2),
        round(peak),
        round(max(0.0, peak - idle_mb)),
    )


def _wrk(target: Target, body: str, connections: int, seconds: float) -> tuple[float, ...]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT)
        script.flush()
        limits = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s"]
        done = subprocess.run(
            ["wrk", *limits, "-s", script.name, target.url],
            env=os.environ
            | {
                "LOAD_METHOD": target.method,
                "LOAD_HEADERS": "".join(f"{name}: {value}\n" for name, value in target.headers.items()),
                "LOAD_BODY": body,
                "LOAD_SERIES": os.urandom(6).hex(),
            },
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"FIGURES (.+)", done.stdout)
    if found is None:
        raise RuntimeError(done.stdout + done.stderr)
    return tuple(map(float, found[1].split()))


@dataclasses.dataclass(frozen=True, slots=True)
class Waits:
    """How long the answers to a probe took, in milliseconds, each from the moment it was due."""

    p50: float
    p99: float
    longest: float
    count: int


async def probe(target: Target, body: Callable[[int], str], *, every: float, seconds: float) -> Waits:
    """Send a request every so many seconds, each over a connection of its own, late answers or not."""
    waits: list[float] = []
    asking: list[asyncio.Task[None]] = []
    began = time.perf_counter()
    for number in range(round(seconds / every)):
        due = began + number * every
        await asyncio.sleep(due - time.perf_counter())
        asking.append(asyncio.create_task(_ask(target, body(number), due, waits)))
    await asyncio.gather(*asking)
    return Waits(round(percentile(waits, 50), 2), round(percentile(waits, 99), 2), round(max(waits), 2), len(waits))


async def _ask(target: Target, body: str, due: float, waits: list[float]) -> None:
    parts = urlsplit(target.url)
    headers = {"host": parts.netloc, "connection": "close", "content-length": str(len(body)), **target.headers}
    head = f"{target.method} {parts.path} HTTP/1.1\r\n" + "".join(
        f"{name}: {text}\r\n" for name, text in headers.items()
    )
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"{head}content-type: application/json\r\n\r\n{body}".encode())
    status = await reader.readline()
    while await reader.read(65536):
        pass
    waits.append((time.perf_counter() - due) * 1000)
    writer.close()
    if b" 200 " not in status:
        raise RuntimeError(f"{target.url} answered {status!r}")


async def during(work: Coroutine[object, object, Waits], busy: Callable[[], object]) -> Waits:
    """Run *work* while *busy* runs in a thread, and wait for both."""
    running = asyncio.create_task(asyncio.to_thread(busy))
    # Let the load arrive first.
    await asyncio.sleep(1)
    found = await work
    await running
    return found
