"""An emulator whose delays last until they are told to end: what takes long here takes as long as a test needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from sfumato.emulator import EmulatorOptions, create_emulator
from tests.conftest import Emulator
from tests.support.servers import serving

_POLL_SECONDS = 0.01


class Gate:
    """The emulator's sleep: whoever sleeps wakes when the gate is open, however long it was told to."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    async def __call__(self, seconds: float) -> None:
        """Wait for the gate."""
        del seconds
        while not self._opened.is_set():  # noqa: ASYNC110  # opened in another thread, for any number of loops
            await anyio.sleep(_POLL_SECONDS)

    def open(self) -> None:
        """Let everybody go on, now and later."""
        self._opened.set()


@contextmanager
def gated_emulator() -> Iterator[tuple[Emulator, Gate]]:
    """Run an emulator of the test's own; yield it and the gate that its delays wait at."""
    gate = Gate()
    with serving(create_emulator(EmulatorOptions(sleep=gate))) as url:
        emulator = Emulator(url)
        try:
            yield emulator, gate
        finally:
            gate.open()
            emulator.close()
