"""Where commands write tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_WITHOUT_TERMINAL = 150


def wide_console(*, stderr: bool = False) -> Console:
    """Return a console that leaves tables whole where there is no terminal."""
    from rich.console import Console  # noqa: PLC0415  # only tables need it

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_WIDTH_WITHOUT_TERMINAL)
