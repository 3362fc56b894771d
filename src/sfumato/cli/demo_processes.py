"""The services that the demo starts, each a process of its own, and none of them left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from sfumato.errors import ConfigurationError
from sfumato.settings import Settings, variable_names

_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.1
_TOLD_LINES = 15


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def environment(values: Mapping[str, str], *, keep: Collection[str]) -> dict[str, str]:
    """Return the environment for a service: this process's own without sfumato's variables, and *values*.

    Args:
        values: Set in any case.
        keep: Fields of `Settings` whose variables are passed on all the same; with few of them the demo runs alike
            everywhere.
    """
    dropped = {name for field in Settings.model_fields if field not in keep for name in variable_names(field)}
    # Handing on is not reading: what the variables mean stays with settings.py.
    return {name: value for name, value in os.environ.items() if name not in dropped} | dict(values)


@contextlib.contextmanager
def service(
    name: str, command: Sequence[str], *, ready_url: str, env: Mapping[str, str], log: Path, timeout_seconds: float
) -> Iterator[None]:
    """Run *command* until the block is left; enter the block when *ready_url* answers 200.

    Raises:
        ConfigurationError: It ended, or was not ready in time; the message holds the end of its log.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with _signals_held_back(), log.open("wb") as output:
            # A session of its own: Ctrl-C reaches the demo only, which then ends what it started, grandchildren too.
            process = subprocess.Popen(  # noqa: S603  # the demo's own commands
                command, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _wait(name, process, ready_url, log, timeout_seconds)
        yield
    finally:
        if process is not None:
            _stop(process)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let a signal that ends the demo come when the block is left: a process that is being started is nobody's yet."""
    told: list[int] = []
    # Not blocked: the process would inherit that.
    before = {
        number: signal.signal(number, lambda number, _: told.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told:
            signal.raise_signal(told[0])


def _wait(name: str, process: subprocess.Popen[bytes], url: str, log: Path, timeout_seconds: float) -> None:
    import httpx  # noqa: PLC0415  # with the demo only

    deadline = time.monotonic() + timeout_seconds
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(_POLL_SECONDS)
    what = "did not start in time" if process.poll() is None else f"ended with {process.returncode}"
    told = "\n".join(log.read_text(errors="replace").splitlines()[-_TOLD_LINES:])
    raise ConfigurationError(f"{name} {what}. Its log, {log}, ends:\n{told}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
