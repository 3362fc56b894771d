"""Several processes that serve one listening socket: started, replaced when they die, ended together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

from sfumato.cli.draining import Served, WorkerServer
from sfumato.cli.handshakes import stop_handshakes
from sfumato.errors import ConfigurationError

_log = logging.getLogger("sfumato")
_spawn = multiprocessing.get_context("spawn")
# uvicorn's exit status when an app does not start.
_STARTUP_FAILURE = 3
_RESTART_SECONDS = 0.5


class Workers:
    """Run *count* servers until SIGTERM or SIGINT; a second signal kills them.

    Args:
        build: A picklable factory of what they serve, called in each.
        listener: What they accept from.
        count: How many.
        log_config: For `logging.config.dictConfig`, in each.
        grace_seconds: Bound of the time between the signal and the end.
    """

    def __init__(
        self,
        build: Callable[[], Served],
        listener: socket.socket,
        *,
        count: int,
        log_config: dict[str, Any],
        grace_seconds: float,
    ) -> None:
        self._build = build
        self._listener = listener
        self._count = count
        self._log_config = log_config
        self._grace_seconds = grace_seconds
        self._processes: list[SpawnProcess] = []
        self._told_at: float | None = None
        self._told, self._tell = os.pipe()

    def run(self) -> None:
        """Serve.

        Raises:
            ConfigurationError: The app does not start.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        for _ in range(self._count):
            self._start()
        try:
            while self._told_at is None:
                wait([self._told, *(process.sentinel for process in self._processes)])
                self._replace_dead()
        finally:
            self._stop()

    def _end(self, number: int, frame: object) -> None:
        del frame
        if self._told_at is not None:
            for process in self._processes:
                process.kill()
            os._exit(128 + number)
        self._told_at = time.monotonic()
        os.write(self._tell, b"!")

    def _start(self) -> None:
        process = _spawn.Process(
            target=_serve, args=(self._build, self._listener, self._log_config, self._grace_seconds)
        )
        process.start()
        self._processes.append(process)

    def _replace_dead(self) -> None:
        for process in [process for process in self._processes if process.exitcode is not None]:
            self._processes.remove(process)
            if process.exitcode == _STARTUP_FAILURE:
                raise ConfigurationError("A worker process did not start; the log tells why.")
            _log.error("Worker process %d ended with %d; another takes its place.", process.pid, process.exitcode)
            # One that dies at once must not be started without end; a signal cuts the wait short.
            if not wait([self._told], timeout=_RESTART_SECONDS):
                self._start()

    def _stop(self) -> None:
        told_at = time.monotonic() if self._told_at is None else self._told_at
        stop_handshakes(self._listener)
        for process in self._processes:
            process.terminate()
        # Each worker has its own handle on it, and takes what is in its backlog.
        self._listener.close()
        for process in self._processes:
            process.join(max(0.0, told_at + self._grace_seconds - time.monotonic()))
        for process in self._processes:
            process.kill()
            process.join()


def _serve(
    build: Callable[[], Served], listener: socket.socket, log_config: dict[str, Any], grace_seconds: float
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    WorkerServer(build(), log_config=log_config, grace_seconds=grace_seconds).run([listener])


def _end_with_parent() -> None:
    """Drain when the process that started this one is gone: nobody else would end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
