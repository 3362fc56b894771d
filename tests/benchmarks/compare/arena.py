"""The contestants of a round, all up at once in fresh processes, so that loads can alternate between them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.benchmarks.compare.contestants import CONTESTANTS, Contestant, Place
from tests.benchmarks.compare.loads import NUMBER, Sample, Target, load
from tests.benchmarks.compare.pictures import SIZES, digest
from tests.benchmarks.compare.processes import Process
from tests.support.ports import free_port

_STORE_SECONDS = 20
_WARMING_REQUESTS = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """A contestant that runs."""

    name: str
    contestant: Contestant
    url: str
    process: Process
    idle_mb: float

    @property
    def makes_pictures(self) -> bool:
        """Tell whether it answers prompts, not names of files."""
        return "{size}" not in self.contestant.path

    def target(self, size: str, *, gzip: bool = False) -> Target:
        """Return where requests for a size go."""
        path = self.contestant.path.replace("{size}", size)
        return Target(self.url + path, self.contestant.headers(gzip=gzip), self.contestant.method)

    def load(self, size: str, *, connections: int, seconds: float, gzip: bool = False, fresh: bool = True) -> Sample:
        """Load it with requests for a size: with *fresh* prompts, or always with the same one."""
        body = self.contestant.body(size, NUMBER if fresh else "0")
        target = self.target(size, gzip=gzip)
        return load(target, body, connections=connections, seconds=seconds, server=self.process, idle_mb=self.idle_mb)

    def ask(self, size: str, number: str, *, gzip: bool = False) -> httpx.Response:
        """Send one request."""
        target = self.target(size, gzip=gzip)
        headers = {"content-type": "application/json", **target.headers}
        if not gzip:
            headers["accept-encoding"] = "identity"
        body = self.contestant.body(size, number)
        return httpx.request(target.method, target.url, content=body, headers=headers, timeout=60).raise_for_status()

    def check(self, size: str, *, gzip: bool = False) -> None:
        """Check that the whole picture comes.

        Raises:
            RuntimeError: Another one came.
        """
        document = self.ask(size, "0", gzip=gzip).json()
        if self.name == "direct":
            text = document["candidates"][0]["content"]["parts"][0]["inlineData"]["data"]
        else:
            text = document["data"][0]["b64_json"]
        if hashlib.sha256(base64.b64decode(text)).hexdigest() != digest(size):
            raise RuntimeError(f"{self.name} did not return the picture of {size}")

    def prime(self, size: str) -> bytes:
        """Have the picture cached that every request without a fresh prompt asks for; return the whole answer."""
        deadline = time.monotonic() + _STORE_SECONDS
        while time.monotonic() < deadline:
            answer = self.ask(size, "0")
            if answer.headers.get("x-gemini-image-cache") == "hit":
                return answer.content
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not store {size}")


@contextmanager
def arena(names: Iterable[str], directory: Path) -> Iterator[dict[str, Standing]]:
    """Run contestants and the upstream; end them all afterwards.

    Args:
        names: Keys of `CONTESTANTS`.
        directory: Where they may write.
    """
    files = directory / "files"
    files.mkdir(parents=True)
    (files / "10k").write_bytes(b"{}")
    with ExitStack() as stack:
        upstream = _start("direct", directory, "", stack)
        started = [_start(name, directory, upstream.url, stack) for name in names if name != "direct"]
        yield {standing.name: _warmed(standing) for standing in (upstream, *started)}


def _start(name: str, directory: Path, upstream: str, stack: ExitStack) -> Standing:
    contestant = CONTESTANTS[name]
    home = directory / name
    home.mkdir()
    (home / "files").symlink_to(directory / "files")
    place = Place(free_port(), home, upstream)
    command = [contestant.program, *contestant.arguments(place)]
    process = Process(command, contestant.environment(place), home, name)
    stack.callback(process.end)
    return Standing(name, contestant, f"http://127.0.0.1:{place.port}", process, 0.0)


def _warmed(standing: Standing) -> Standing:
    standing.process.await_answer(standing.url + standing.contestant.health)
    if standing.makes_pictures:
        for number in range(_WARMING_REQUESTS):
            # What a first request loads is not what a request costs.
            standing.ask("10k", f"warm-{number}")
    standing.process.settle()
    return dataclasses.replace(standing, idle_mb=standing.process.resident_mb())


def check_all(standing: Iterable[Standing], sizes: Iterable[str] = SIZES) -> None:
    """Check that every contestant that makes pictures returns whole ones, compressed for who takes it or not.

    Raises:
        RuntimeError: One does not.
    """
    for contestant in standing:
        if contestant.makes_pictures:
            for size in sizes:
                for gzip in (False, True):
                    contestant.check(size, gzip=gzip)
