"""The cache's backends with their servers, and beside each the plain way to keep the same bytes there."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.memory import MemoryStore
from sfumato.cache.store import Store

MEGABYTE = 1024 * 1024
CAPACITY_BYTES = 1000 * MEGABYTE
NAMES = ("memory", "filesystem", "redis", "s3")
_START_SECONDS = 10


class MissingError(Exception):
    """A backend cannot be measured here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A store, and the plain way.

    Attributes:
        put: Keeps bytes under a name without any of the cache's work.
        get: Reads them back; from files, where the bar says so, with their digest.
        remove: Forgets them.
    """

    name: str
    store: Store
    put: Callable[[str, bytes], Awaitable[None]]
    get: Callable[[str], Awaitable[None]]
    remove: Callable[[str], Awaitable[None]]


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Backend]:
    """Open the backend called *name*, its server started in a temporary directory.

    Raises:
        MissingError: The server or the library is not installed, or the store is not written yet.
    """
    with tempfile.TemporaryDirectory(prefix="sfumato-benchmark-") as directory:
        async with _OPENERS[name](Path(directory)) as backend:
            try:
                yield backend
            finally:
                await backend.store.aclose()


@asynccontextmanager
async def _memory(_: Path) -> AsyncIterator[Backend]:
    held: dict[str, bytes] = {}

    async def put(key: str, data: bytes) -> None:
        held[key] = bytes(memoryview(data))

    async def get(key: str) -> None:
        hashlib.sha256(held[key]).hexdigest()

    async def remove(key: str) -> None:
        del held[key]

    yield Backend("memory", MemoryStore(CAPACITY_BYTES), put, get, remove)


@asynccontextmanager
async def _filesystem(directory: Path) -> AsyncIterator[Backend]:
    plain = directory / "plain"
    plain.mkdir()

    async def put(key: str, data: bytes) -> None:
        path, temp = plain / key, plain / f"{key}.tmp"
        with temp.open("wb", buffering=0) as file:
            file.write(data)
        temp.replace(path)

    async def get(key: str) -> None:
        with (plain / key).open("rb", buffering=0) as file:
            hashlib.sha256(file.read()).hexdigest()

    async def remove(key: str) -> None:
        (plain / key).unlink()

    yield Backend("filesystem", FilesystemStore(directory / "cache", CAPACITY_BYTES), put, get, remove)


@asynccontextmanager
async def _redis(directory: Path) -> AsyncIterator[Backend]:
    library, connection, module = map(_import, ("redis.asyncio", "sfumato.cache.redis", "sfumato.cache.redis_store"))
    program = shutil.which("redis-server")
    if program is None:
        raise MissingError("redis-server is not installed")
    port = _free_port()
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": directory}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with _running([program, *arguments], port):
        url = f"redis://127.0.0.1:{port}/0"
        client: Any = library.Redis.from_url(url)

        async def put(key: str, data: bytes) -> None:
            await client.set(f"plain:{key}", data)

        async def get(key: str) -> None:
            await client.get(f"plain:{key}")

        async def remove(key: str) -> None:
            await client.delete(f"plain:{key}")

        try:
            yield Backend("redis", module.RedisStore(connection.connect(url), CAPACITY_BYTES), put, get, remove)
        finally:
            await client.aclose()


@asynccontextmanager
async def _s3(_: Path) -> AsyncIterator[Backend]:
    library, module = _import("obstore.store"), _import("sfumato.cache.objects")
    _import("moto.server")
    port = _free_port()
    # In a process of its own: in a thread of ours it would hold up the event loop that is measured.
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        endpoint = f"http://127.0.0.1:{port}"
        os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
        async with httpx.AsyncClient() as client:
            (await client.put(f"{endpoint}/benchmark")).raise_for_status()
        plain: Any = library.from_url("s3://benchmark/plain", client_options={"allow_http": True})

        async def put(key: str, data: bytes) -> None:
            await plain.put_async(key, data, use_multipart=False)

        async def get(key: str) -> None:
            bytes(await (await plain.get_async(key)).bytes_async())

        async def remove(key: str) -> None:
            await plain.delete_async(key)

        yield Backend("s3", module.ObjectStore("s3://benchmark/cache", CAPACITY_BYTES), put, get, remove)


_OPENERS = {"memory": _memory, "filesystem": _filesystem, "redis": _redis, "s3": _s3}


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(str(error)) from None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise MissingError(f"{command[0]} did not start")
            time.sleep(0.02)
        yield
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
