"""A strict local Gemini API that draws real pictures, with latency and fault switches."""

from __future__ import annotations

from sfumato.emulator.app import create_emulator
from sfumato.emulator.faults import SWITCHES
from sfumato.emulator.options import EmulatorOptions

__all__ = ["SWITCHES", "EmulatorOptions", "create_emulator"]
