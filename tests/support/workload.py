"""A real ``sfumato serve`` before an emulator, and everything that may happen to it within a minute."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sfumato.emulator import EmulatorOptions, create_emulator
from tests.cli.conftest import serving as running_command
from tests.support import samples
from tests.support.servers import serving

CLIENT_KEY = "sk-workload-web"
ADMIN_KEY = "sk-workload-admin"
MODEL = "gemini-3-pro-image"
_KEYS = {"first": "key-one-1234", "second": "key-two-1234", "limited": "key-rpm-1234", "leaked": "key-bad-1234"}
_FAULTS = {_KEYS["limited"]: "429:5", _KEYS["leaked"]: "leaked-key"}
_PATIENCE_SECONDS = 120.0
_PLACES, _QUEUE, _TIMEOUT_SECONDS = 2, 1, 10


@dataclass(frozen=True)
class Service:
    """A running service: its address, its environment, and where it writes."""

    url: str
    environment: dict[str, str]
    log: Path
    cache: Path

    def lines(self) -> str:
        """Return the request log's lines so far, without what the service says beside them."""
        return "".join(line for line in self.log.read_text().splitlines(keepends=True) if line.startswith("{"))


@contextmanager
def running_service(directory: Path, *, labels: tuple[str, ...] = tuple(_KEYS)) -> Iterator[Service]:
    """Serve with few places and a small cache.

    Args:
        directory: For the log and the cache.
        labels: The accounts: ``first`` and ``second`` work, ``limited`` is limited, ``leaked`` is refused.
    """
    with serving(create_emulator(EmulatorOptions(key_faults=_FAULTS))) as emulator:
        environment = {
            "GEMINI_API_KEYS": ",".join(f"{label}:{_KEYS[label]}" for label in labels),
            "GEMINI_IMAGE_API_BASE": emulator,
            "GEMINI_IMAGE_CLIENT_KEYS": f"web:{CLIENT_KEY}",
            "GEMINI_IMAGE_ADMIN_KEY": ADMIN_KEY,
            "GEMINI_IMAGE_CACHE_DIR": str(directory / "cache"),
            "GEMINI_IMAGE_CACHE_MAX_SIZE_MB": "3",
            "GEMINI_IMAGE_MAX_CONCURRENCY": str(_PLACES),
            "GEMINI_IMAGE_QUEUE_SIZE": str(_QUEUE),
            "GEMINI_IMAGE_TIMEOUT_SECONDS": str(_TIMEOUT_SECONDS),
            "GEMINI_IMAGE_SAFETY_FLOOR": "LOW",
        }
        log = directory / "log"
        with running_command("serve", "--port", "0", log=log, env=environment) as (url, _):
            yield Service(url, environment, log, directory / "cache")


def run_round(service: Service, name: str) -> None:
    """Let everything happen once: pictures, hits, edits, and every kind of failure. *name* tells rounds apart."""
    headers = {"Authorization": f"Bearer {CLIENT_KEY}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:

        def make(prompt: str, *, expected: int = 200, **fields: Any) -> None:
            body = {"model": MODEL, "prompt": f"{prompt} {name}", **fields}
            answer = client.post("/v1/images/generations", json=body)
            assert answer.status_code == expected, (prompt, answer.text[:300])

        # Enough calls for every account to be tried.
        for number in range(4):
            make(f"A picture {number}", user=f"user-{number}")
        make("A picture 3")
        make("Two of each", n=2)
        make("Two of each", n=3)
        make("A wide one", model=f"{MODEL}-2k-16x9")
        _edit(client, f"An edit {name}")
        make(f"Half refused [[emulator:IMAGE_SAFETY;every=2;id={name}]]", n=2)
        make(f"A second try [[emulator:503:0;times=1;id={name}]]")
        make("Refused [[emulator:SAFETY]]", expected=400)
        make("Wrong", expected=400, background="transparent")
        make("Unknown", expected=404, model=f"{MODEL}-9k")
        make("Broken [[emulator:garbage]]", expected=502)
        make("Late [[emulator:stall-before]]", expected=504)
        make("Used up [[emulator:429-day]]", expected=429, model="gemini-2.5-flash-image")
        make("Too fast [[emulator:429]]", expected=429, model="gemini-3.1-flash-image")
        assert client.post("/v1/images/generations", headers={"Authorization": "Bearer wrong"}).status_code == 401
        _overload(client, name)
        _break_cache(service, client, name)


def _edit(client: httpx.Client, prompt: str) -> None:
    picture = samples.encoded(samples.noise(320, 200))
    form = {"model": MODEL, "prompt": prompt}
    answer = client.post("/v1/images/edits", data=form, files={"image": ("room.png", picture, "image/png")})
    assert answer.status_code == 200, answer.text[:300]


def _overload(client: httpx.Client, name: str) -> None:
    """Ask for more at a time than places and queue hold."""

    def make(number: int) -> int:
        body = {"model": MODEL, "prompt": f"Slow {number} {name} [[emulator:latency:1]]"}
        return client.post("/v1/images/generations", json=body).status_code

    asked = _PLACES + _QUEUE + 3
    with ThreadPoolExecutor(asked) as threads:
        statuses = list(threads.map(make, range(asked)))
    assert set(statuses) == {200, 503}, statuses


def _break_cache(service: Service, client: httpx.Client, name: str) -> None:
    """Fill the cache past its budget, damage an entry, and put a directory where another one stood."""
    prompts = [f"Grain {number} {name} [[emulator:grain]]" for number in range(7)]

    def make(prompt: str) -> None:
        answer = client.post("/v1/images/generations", json={"model": MODEL, "prompt": prompt})
        assert answer.status_code == 200, answer.text[:300]

    for prompt in prompts:
        make(prompt)
    damaged = _await_entry(service, client, prompts[-2])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    make(prompts[-2])
    replaced = _await_entry(service, client, prompts[-1])
    replaced.unlink()
    replaced.mkdir()
    make(prompts[-1])
    if replaced.is_dir():
        shutil.rmtree(replaced)


def _await_entry(service: Service, client: httpx.Client, prompt: str) -> Path:
    """Return the file of a prompt's picture: an answer may be out before its picture is stored."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        # Asked for again where it found no room: pictures that are stored at the same time compete for it.
        client.post("/v1/images/generations", json={"model": MODEL, "prompt": prompt})
        told = client.get("/gemini-image/cache", params={"prompt": prompt}, headers=headers).json()
        if told["entries"]:
            name = hashlib.sha256(told["entries"][0]["key"].encode()).hexdigest()
            return service.cache / name[:2] / name
        assert time.monotonic() < deadline, "the picture was not stored"
        time.sleep(0.05)
