"""Real Redis servers on loopback and free ports, without persistence, each ended by whoever started it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.ports import reserved_port

_START_SECONDS = 60.0


class RedisServer:
    """A redis-server that can be stopped and started again on its port.

    Args:
        directory: Where it runs; its configuration and its socket lie there.
        port: Reserved for it.
        config: Directives; ``_`` stands for ``-``.
    """

    def __init__(self, directory: Path, port: int, config: dict[str, object]) -> None:
        self.port = port
        self.socket = directory / "redis.sock"
        self._directory = directory
        self._file = directory / "redis.conf"
        self._sentinel = "sentinel" in config
        self._process: subprocess.Popen[bytes] | None = None
        whole: dict[str, object] = {"bind": "127.0.0.1", "port": port, "dir": directory, "unixsocket": self.socket}
        if not self._sentinel:
            whole |= {"save": '""', "appendonly": "no"}
        lines = [f"{name.replace('_', '-')} {value}" for name, value in (whole | config).items()]
        self._file.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        """Return its URL."""
        return f"redis://127.0.0.1:{self.port}"

    def admin(self) -> Any:
        """Return a client for the test's own looks and changes; close it."""
        return redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        """Start and wait until it answers."""
        command = ["redis-server", str(self._file), *(["--sentinel"] if self._sentinel else [])]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self._directory)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(redis.exceptions.RedisError), self.admin() as admin:
                # A server that asks for a password is one that answers.
                with contextlib.suppress(redis.exceptions.AuthenticationError):
                    admin.ping()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let it take connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill it; everything it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


def require_redis() -> None:
    """Skip on a machine without redis-server, fail in CI."""
    if shutil.which("redis-server") is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")


@contextmanager
def running_redis(**config: object) -> Iterator[RedisServer]:
    """Run a server with *config* as directives, ``_`` for ``-``; ``sentinel=`` makes it a Sentinel."""
    require_redis()
    with tempfile.TemporaryDirectory(prefix="redis-") as directory, reserved_port() as port:
        server = RedisServer(Path(directory), port, config)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def running_sentinel(master: RedisServer, service: str) -> Iterator[RedisServer]:
    """Run a Sentinel that calls *master* by the name *service*."""
    with running_redis(sentinel=f"monitor {service} 127.0.0.1 {master.port} 1") as server:
        yield server


@contextmanager
def running_cluster() -> Iterator[list[RedisServer]]:
    """Run a cluster of three masters without replicas, each with a third of the slots."""
    with contextlib.ExitStack() as stack:
        buses = [stack.enter_context(reserved_port()) for _ in range(3)]
        nodes = [
            stack.enter_context(running_redis(cluster_enabled="yes", cluster_port=bus, cluster_node_timeout=2000))
            for bus in buses
        ]
        admins = [stack.enter_context(contextlib.closing(node.admin())) for node in nodes]
        bounds = [0, 5461, 10923, 16384]
        for number, admin in enumerate(admins):
            admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            admins[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        deadline = time.monotonic() + _START_SECONDS
        while not all(_is_whole(admin) for admin in admins):
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster did not come together")
            time.sleep(0.02)
        yield nodes


def hand_over(slots: tuple[int, int], node: RedisServer, other: RedisServer) -> None:
    """Give *node* the *slots* of a third master that is silent, as a replica would take them."""
    with node.admin() as new, other.admin() as witness:
        for admin in (new, witness):
            admin.execute_command("CLUSTER", "DELSLOTSRANGE", *slots)
        new.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        new.execute_command("CLUSTER", "BUMPEPOCH")
        deadline = time.monotonic() + _START_SECONDS
        while not all(_is_whole(admin) for admin in (new, witness)):
            if time.monotonic() > deadline:
                raise RuntimeError("the slots were not handed over")
            time.sleep(0.02)


def _is_whole(admin: Any) -> bool:
    info: bytes = admin.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info
