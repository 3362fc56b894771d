"""How accounts are, for whoever looks: administrators, gauges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sfumato.upstream.cooling import CoolingRow


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """An account as administrators and gauges see it; without its key.

    Attributes:
        label: Its label.
        backend: Which Google API it is for.
        state: ``parked`` (Google refuses the credentials), ``cooling`` (some model rests) or ``ready``.
        running: Calls under way.
        weight, rpm: As configured.
        used_this_minute: Calls begun in the last minute, per model.
        cooling: The models that rest.
        parked: Why it is parked and when it is tried again.
    """

    label: str
    backend: Literal["gemini", "vertex"]
    state: Literal["ready", "cooling", "parked"]
    running: int
    weight: float
    rpm: int | None
    used_this_minute: Mapping[str, int]
    cooling: tuple[CoolingRow, ...]
    parked: CoolingRow | None
