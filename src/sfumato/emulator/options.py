"""What a caller of `create_emulator` can set."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import anyio

# "Request payload size exceeds the limit: 20971520 bytes." (ai.google.dev still states 20 MB for images, 2026-11-21)
MAX_BODY_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorOptions:
    """Settings of one emulator.

    Attributes:
        api_keys: The keys it accepts; empty accepts every key that does not contain ``invalid``.
        faults: Switches in force for every call, in the grammar of `sfumato.emulator.faults`.
        key_faults: Switches in force for the calls of one key.
        latency_seconds: Wait before every generated answer.
        max_body_bytes: A larger request body is answered with Google's payload size message.
        max_journal_calls: How many calls the journal keeps; the oldest go first.
        sleep: Waits for a number of seconds.
        clock: Tells Unix seconds, for the journal.
    """

    api_keys: tuple[str, ...] = ()
    faults: str = ""
    key_faults: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    latency_seconds: float = 0.0
    max_body_bytes: int = MAX_BODY_BYTES
    max_journal_calls: int = 1000
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    clock: Callable[[], float] = time.time
