"""What accounts, retries and draining cost: wasted calls, the answer of a pool at rest, what leavers and faults leave.

::

    python -m tests.benchmarks.accounts [--requests 200] [--clients 50] [--faults 500]

Servers are real: `sfumato serve` on a loopback address with the emulator upstream. Fails when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from rich.console import Console
from rich.table import Table

from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.errors import ImageError
from tests.benchmarks.measuring import percentile
from tests.cli.conftest import serving as serving_command
from tests.conftest import Emulator
from tests.support.clients import bench
from tests.support.fault_proxy import Break, fault_proxy
from tests.support.raw_http import Answer, Connection, ask_once, image_request
from tests.support.servers import serving

_AT_A_TIME = 20
_SAMPLES = 100
_GRACE_SECONDS = 30.0
_RENDER_SECONDS = 2.0
_FAULTS = ("truncated", "reset", "stall", "garbage", "empty-body", "html")
_BREAKS = (Break("close"), Break("reset", after_bytes=200), Break("stall", after_bytes=200))


class Row(NamedTuple):
    """One figure."""

    what: str
    measured: str
    wanted: str
    good: bool


@contextmanager
def standing(accounts: Mapping[str, str], *, workers: int = 1) -> Iterator[tuple[str, Emulator, subprocess.Popen[str]]]:
    """Run `sfumato serve` with an account per label, each failing as told; yield its address, upstream and process."""
    keys = {label: f"key-of-{label}" for label in accounts}
    options = EmulatorOptions(key_faults={keys[label]: fault for label, fault in accounts.items() if fault})
    with serving(create_emulator(options)) as upstream, tempfile.TemporaryDirectory() as folder:
        environment = {
            "GEMINI_API_KEYS": ",".join(f"{label}:{key}" for label, key in keys.items()),
            "GEMINI_IMAGE_API_BASE": upstream,
            "GEMINI_IMAGE_CACHE_DIR": f"{folder}/cache",
            "GEMINI_IMAGE_GRACE_SECONDS": str(_GRACE_SECONDS),
        }
        arguments = ("serve", "--no-auth", "--port", "0", "--workers", str(workers))
        with serving_command(*arguments, log=Path(folder, "log"), env=environment) as (url, process):
            yield url, Emulator(upstream), process


async def one_of_three(requests: int) -> list[Row]:
    """One account is out of its day's quota, one limited for 20 s, one works."""
    places = asyncio.Semaphore(_AT_A_TIME)
    with standing({"spent": "429-day", "busy": "429:20", "good": ""}) as (url, emulator, _):
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:

            async def ask(number: int) -> int:
                async with places:
                    answer = await client.post("/v1/images/generations", json={"prompt": f"Lamp {number}"})
                return answer.status_code

            began = time.perf_counter()
            statuses = Counter(await asyncio.gather(*(ask(number) for number in range(requests))))
            seconds = time.perf_counter() - began
        wasted = sum(call["status"] != 200 for call in await asyncio.to_thread(emulator.calls))
    # An account that rests for 20 s is tried again after them.
    allowed = 2 + int(seconds // 20)
    return [
        Row(
            f"{requests} requests, one of three accounts works: answers with 200",
            f"{statuses[200]}",
            "all",
            statuses[200] == requests,
        ),
        Row("… wasted calls", f"{wasted} in {seconds:.1f} s", "2", wasted <= allowed),
    ]


async def all_resting() -> list[Row]:
    """Every account rests: how soon is the client told?"""
    with standing({"spent": "429-day", "busy": "429:600"}) as (url, emulator, _):
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            await client.post("/v1/images/generations", json={"prompt": "The first"})
            calls = len(await asyncio.to_thread(emulator.calls))
            times = []
            answer = httpx.Response(0)
            for number in range(_SAMPLES):
                began = time.perf_counter()
                answer = await client.post("/v1/images/generations", json={"prompt": f"Lamp {number}"})
                times.append((time.perf_counter() - began) * 1000)
        more = len(await asyncio.to_thread(emulator.calls)) - calls
    told = f"{answer.status_code}, Retry-After {answer.headers.get('retry-after')}"
    return [
        Row(
            "every account rests: answer, p50 / p95 / max ms",
            f"{statistics.median(times):.1f} / {percentile(times, 95):.1f} / {max(times):.1f}",
            "p95 < 50",
            percentile(times, 95) < 50,
        ),
        Row("… told", told, "429, ≤ 600", answer.status_code == 429 and 0 < int(answer.headers["retry-after"]) <= 600),
        Row("… upstream calls", str(more), "0", more == 0),
    ]


async def leavers(clients: int) -> list[Row]:
    """Clients leave while upstream renders, and come again."""
    requests = [image_request(f"Lamp {number} [[emulator:latency:{_RENDER_SECONDS}]]") for number in range(clients)]
    with standing({"good": ""}) as (url, emulator, _):

        async def leave(request: bytes) -> None:
            with await Connection.open(url) as connection:
                await connection.send(request)
                while sum(call["status"] is None for call in await asyncio.to_thread(emulator.calls)) < clients:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

        await asyncio.gather(*(leave(request) for request in requests))
        while any(call["status"] is None for call in await asyncio.to_thread(emulator.calls)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        answers = [await ask_once(url, request) for request in requests]
        calls = len(await asyncio.to_thread(emulator.calls))
    hits = sum(answer.headers.get("x-gemini-image-cache") == "hit" for answer in answers)
    return [
        Row(
            f"{clients} clients leave while upstream renders: their retries are hits", str(hits), "all", hits == clients
        ),
        Row("… upstream calls in all", str(calls), str(clients), calls == clients),
    ]


async def faults(count: int) -> list[Row]:
    """Broken answers of every kind: sockets and tasks before and after."""
    with serving(create_emulator(EmulatorOptions())) as upstream:
        port = int(upstream.rpartition(":")[2])
        tasks, files = len(asyncio.all_tasks()), _open_files()
        async with (
            fault_proxy(port) as proxy,
            bench(
                f"http://127.0.0.1:{proxy.port}",
                max_attempts=1,
                attempt_timeout_seconds=2,
                stall_seconds=1,
                max_concurrency=_AT_A_TIME,
                queue_size=count,
            ) as made,
        ):

            async def fail(number: int) -> str:
                name = _FAULTS[number % len(_FAULTS)]
                try:
                    await made.make(f"Lamp {number} [[emulator:{name};id={number}]]")
                except ImageError as error:
                    return error.code
                return "no error"

            await made.make("A first lamp")
            proxy.breaks.extend(_BREAKS[number % len(_BREAKS)] for number in range(count // 2))
            codes = Counter(await asyncio.gather(*(fail(number) for number in range(count))))
            after = await asyncio.gather(*(made.make(f"Lamp {number} again") for number in range(_AT_A_TIME)))
            pooled, own = proxy.connected, len(asyncio.all_tasks()) - 3 * proxy.connected
        await asyncio.sleep(0.5)
        left = (len(asyncio.all_tasks()) - tasks, _open_files() - files)
    told = ", ".join(f"{code.removeprefix('IMG_')} {number}" for code, number in sorted(codes.items()))
    return [
        Row(f"{count} broken answers", told, "no picture", not codes["no error"]),
        Row(f"… then {_AT_A_TIME} good ones", str(len(after)), str(_AT_A_TIME), len(after) == _AT_A_TIME),
        Row("… connections kept, tasks of ours", f"{pooled}, {own}", f"≤ {_AT_A_TIME}, 2", pooled <= _AT_A_TIME),
        Row("… tasks and sockets left after closing", f"{left[0]}, {left[1]}", "0, 0", max(left) <= 0),
    ]


async def ending(workers: int) -> list[Row]:
    """SIGTERM under load, and when idle."""
    answers: list[Answer] = []
    with standing({"good": ""}, workers=workers) as (url, emulator, process):

        async def client(number: int) -> None:
            for turn in range(10_000):
                prompt = f"Lamp {number}-{turn} [[emulator:latency:{_RENDER_SECONDS}]]"
                answers.append(await ask_once(url, image_request(prompt)))
                if answers[-1].status != 200:
                    return

        clients = [asyncio.create_task(client(number)) for number in range(_AT_A_TIME)]
        while len(await asyncio.to_thread(emulator.calls)) < 2 * _AT_A_TIME:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        signalled = time.monotonic()
        process.terminate()
        status = await asyncio.to_thread(process.wait)
        seconds = time.monotonic() - signalled
        await asyncio.gather(*clients)
    before = [answer for answer in answers if answer.sent_at is not None and answer.sent_at < signalled]
    lost = sum(answer.status != 200 for answer in before)
    with standing({"good": ""}, workers=workers) as (url, _, process):
        await ask_once(url, image_request("Lamp"))
        began = time.monotonic()
        process.terminate()
        await asyncio.to_thread(process.wait)
        idle = time.monotonic() - began
    name = f"SIGTERM, {workers} worker{'s' if workers > 1 else ''}"
    return [
        Row(
            f"{name}, renders of {_RENDER_SECONDS:.0f} s: requests sent before, lost",
            f"{len(before)}, {lost}",
            "0",
            lost == 0,
        ),
        Row(
            "… seconds to the end, status",
            f"{seconds:.2f}, {status}",
            f"≤ {_GRACE_SECONDS:.0f}, 0",
            seconds <= _GRACE_SECONDS and status == 0,
        ),
        Row("… seconds to the end when idle", f"{idle:.2f}", "-", good=True),
    ]


def _open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def measure(requests: int, clients: int, count: int) -> list[Row]:
    """Return every figure."""
    rows = [*await one_of_three(requests), *await all_resting(), *await leavers(clients), *await faults(count)]
    return [*rows, *await ending(1), *await ending(2)]


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--faults", type=int, default=500)
    options = parser.parse_args()
    rows = asyncio.run(measure(options.requests, options.clients, options.faults))
    table = Table("", "measured", "wanted", "")
    for row in rows:
        table.add_row(row.what, row.measured, row.wanted, "ok" if row.good else "MISSED")
    Console(width=140).print(table)
    return int(not all(row.good for row in rows))


if __name__ == "__main__":
    sys.exit(main())
