"""What telemetry costs: CPU time per cache hit with OpenTelemetry's SDK and batch export over OTLP, and without.

    python -m tests.benchmarks.telemetry [--rounds 60] [--hits 300]

Two processes of `sfumato serve` answer the same hits over HTTP, in turn and in an order drawn per round. One exports
traces and metrics to a receiver in a third process; the other was asked for none. The CPU time of all threads of each
counts, the exporters' with it. The bar: at most 10 % more.
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

    def seconds_per_hit(self, model: str, prompt: str, hits: int) -> float:
        """Return the CPU time that a hit takes."""
        before = self.cpu_seconds()
        for _ in range(hits):
            self.hit(model, prompt)
        return (self.cpu_seconds() - before) / hits


def measure(servers: list[Server], model: str, prompt: str, rounds: int, hits: int) -> list[list[float]]:
    """Return the seconds per hit of each round, by server."""
    seconds: list[list[float]] = [[] for _ in servers]
    for server in servers:
        server.seconds_per_hit(model, prompt, hits)
    for _ in range(rounds):
        for which in random.sample(range(len(servers)), len(servers)):
            seconds[which].append(servers[which].seconds_per_hit(model, prompt, hits))
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--hits", type=int, default=300)
    options = parser.parse_args()
    with ExitStack() as stack:
        upstream = stack.enter_context(serving(create_emulator(EmulatorOptions())))
        receiver = stack.enter_context(running_receiver())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        common = {
            "GEMINI_API_KEY": "key",
            "GEMINI_IMAGE_API_BASE": upstream,
            "GEMINI_IMAGE_CACHE_DIR": str(directory / "cache"),
        }
        servers = []
        for name, exporting in (("off", {}), ("on", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver})):
            command = serving_command(
                "serve", "--no-auth", "--port", "0", log=directory / name, env={**os.environ, **common, **exporting}
            )
            url, process = stack.enter_context(command)
            servers.append(Server(url, process.pid))
        for name, model, prompt in PICTURES:
            off, on = measure(servers, model, prompt, options.rounds, options.hits)
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
