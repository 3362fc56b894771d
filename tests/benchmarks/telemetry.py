"""What telemetry costs: CPU time per cache hit with OpenTelemetry's SDK and batch export over OTLP, and without.

    python -m tests.benchmarks.telemetry [--rounds 60] [--hits 300] [--starts 4]

Two processes of `sfumato serve` answer the same hits over HTTP, in turn and in an order drawn per round. One exports
traces and metrics to a receiver in a third process; the other was asked for none. The CPU time of all threads of each
counts, from the beginning of a round to its end: with what the exporters do while the other's turn is on. Processes
differ by a percent or two for where their memory lies, so the rounds are shared among several starts. The bar: at most
10 % more.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from sfumato.emulator import EmulatorOptions, create_emulator
from tests.cli.conftest import serving as serving_command
from tests.support.servers import serving

BAR = 1.10
# Name, variant, prompt: the emulator's pictures are small where nothing asks for grain; Gemini's are not.
PICTURES = (
    ("30 KB", "gemini-3-pro-image", "A plain fox"),
    ("0.7 MB, as of 1K", "gemini-3-pro-image", "A grainy fox [[emulator:grain]]"),
    ("10 MB, as of 4K", "gemini-3-pro-image-4k", "A grainy fox [[emulator:grain]]"),
)
RECEIVER = """
from tests.support.otlp_receiver import receiving
with receiving() as receiver:
    print(receiver.http_url, flush=True)
    input()
"""


class Server:
    """A running server, and what it has used."""

    def __init__(self, url: str, process_id: int) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._tasks = Path(f"/proc/{process_id}/task")

    def hit(self, model: str, prompt: str) -> None:
        """Ask for a picture."""
        answer = self._client.post("/v1/images/generations", json={"model": model, "prompt": prompt})
        assert answer.status_code == 200, answer.text[:300]

    def cpu_seconds(self) -> float:
        """Return the CPU time of all threads so far."""
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self._tasks.iterdir()) / 1e9


def measure(servers: list[Server], model: str, prompt: str, rounds: int, hits: int) -> list[list[float]]:
    """Return the seconds per hit of each round, by server."""
    seconds: list[list[float]] = [[] for _ in servers]
    for warming in (True, *(False for _ in range(rounds))):
        before = [server.cpu_seconds() for server in servers]
        for server in random.sample(servers, len(servers)):
            for _ in range(hits):
                server.hit(model, prompt)
        if not warming:
            for used, server, earlier in zip(seconds, servers, before, strict=True):
                used.append((server.cpu_seconds() - earlier) / hits)
    return seconds


def interval(ratios: list[float], *, draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the median, by drawing again and again from what was measured."""
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[int(draws * 0.025)], medians[int(draws * 0.975)]


@contextmanager
def running_receiver() -> Iterator[str]:
    """Run an OTLP receiver in a process of its own; yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", RECEIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def running_servers(directory: Path, upstream: str, receiver: str) -> Iterator[list[Server]]:
    """Run a server that exports nothing, and one that exports to *receiver*."""
    common = {
        "GEMINI_API_KEY": "key",
        "GEMINI_IMAGE_API_BASE": upstream,
        "GEMINI_IMAGE_CACHE_DIR": str(directory / "cache"),
    }
    with ExitStack() as stack:
        servers = []
        for name, exporting in (("off", {}), ("on", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver})):
            command = serving_command(
                "serve", "--no-auth", "--port", "0", log=directory / name, env={**os.environ, **common, **exporting}
            )
            url, process = stack.enter_context(command)
            servers.append(Server(url, process.pid))
        yield servers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--hits", type=int, default=300)
    parser.add_argument("--starts", type=int, default=4)
    options = parser.parse_args()
    results: dict[str, list[list[float]]] = {name: [[], []] for name, _, _ in PICTURES}
    with ExitStack() as stack:
        upstream = stack.enter_context(serving(create_emulator(EmulatorOptions())))
        receiver = stack.enter_context(running_receiver())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for _ in range(options.starts):
            with running_servers(directory, upstream, receiver) as servers:
                for name, model, prompt in PICTURES:
                    rounds = max(1, options.rounds // options.starts)
                    for which, seconds in enumerate(measure(servers, model, prompt, rounds, options.hits)):
                        results[name][which] += seconds
    for name, (off, on) in results.items():
        report(name, off, on)


def report(name: str, off: list[float], on: list[float]) -> None:
    """Print the ratio of two measurements, round by round."""
    ratios = [with_export / without for with_export, without in zip(on, off, strict=True)]
    low, high = interval(ratios)
    print(  # noqa: T201  # the command's output
        f"{name}: {statistics.median(off) * 1e6:.0f} us without, {statistics.median(on) * 1e6:.0f} us with; ratio "
        f"{statistics.median(ratios):.3f}, 95 % interval {low:.3f} to {high:.3f}, bar {BAR}: "
        f"{'kept' if statistics.median(ratios) <= BAR else 'NOT kept'}"
    )


if __name__ == "__main__":
    main()
