"""What a request costs while its Redis is away: stopped, stalled, out of memory, and back again.

::

    python -m tests.benchmarks.cache_outages [--requests 20]

Each request is a miss at first sight: lookup, lease, call to the emulator, store. The first one in each state meets the
fault, the others the open circuit. Fails when a request in trouble takes 300 ms longer than the slowest healthy one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time

from rich.console import Console
from rich.table import Table

from sfumato.cache.redis import connect
from sfumato.cache.redis_store import RedisStore
from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.engine.redis_leases import RedisLeases
from tests.support.clients import Bench, bench
from tests.support.fault_proxy import fault_proxy
from tests.support.redis_server import RedisServer, running_redis
from tests.support.servers import serving

_EXTRA_MS = 300.0


async def timed(it: Bench, state: str, requests: int) -> list[float]:
    """Return how long each of *requests* new requests takes, in milliseconds."""
    times = []
    for number in range(requests):
        began = time.perf_counter()
        await it.make(f"{state}, picture {number}")
        times.append((time.perf_counter() - began) * 1000)
    return times


async def measure(emulator_url: str, server: RedisServer, requests: int) -> dict[str, list[float]]:
    """Return the times of each state."""
    found: dict[str, list[float]] = {}
    async with fault_proxy(server.port) as proxy:
        connection = connect(f"redis://127.0.0.1:{proxy.port}/0")
        store, leases = RedisStore(connection, 200_000_000), RedisLeases(connection)
        async with bench(emulator_url, store=store, leases=leases) as it:
            await timed(it, "warm-up", 5)
            found["healthy"] = await timed(it, "healthy", requests)
            proxy.stall()
            found["stalled"] = await timed(it, "stalled", requests)
            proxy.resume()
            await asyncio.sleep(2.5)
            found["back"] = await timed(it, "back", requests)
            server.stop()
            found["stopped"] = await timed(it, "stopped", requests)
            server.start()
            await asyncio.sleep(5)
            found["restarted"] = await timed(it, "restarted", requests)
            server.admin().config_set("maxmemory-policy", "noeviction")
            server.admin().config_set("maxmemory", 1)
            found["out of memory"] = await timed(it, "out of memory", requests)
    return found


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20)
    requests = parser.parse_args().requests
    with serving(create_emulator(EmulatorOptions())) as url, running_redis() as server:
        found = asyncio.run(measure(url, server, requests))
    slowest = max(found["healthy"])
    table = Table("state", "p50 ms", "first ms", "max ms", "beyond the slowest healthy, ms", title="Redis outages")
    failed = False
    for state, times in found.items():
        extra = max(times) - slowest
        failed |= state != "healthy" and extra > _EXTRA_MS
        row = (statistics.median(times), times[0], max(times), max(0.0, extra))
        table.add_row(state, *(f"{value:.1f}" for value in row))
    Console().print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
