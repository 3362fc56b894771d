"""The command line: one file per command, and nothing loaded before it is needed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from sfumato.errors import ImageError

_NEEDED = ("typer", "rich", "uvicorn")


def main() -> None:
    """Run the command line; the entry point of `sfumato`."""
    if any(find_spec(name) is None for name in _NEEDED):
        sys.exit("sfumato: the command line needs its extra: pip install 'sfumato[cli]'")
    from sfumato.cli.app import app  # noqa: PLC0415  # it needs the extra

    try:
        app()
    except ImageError as error:
        sys.exit(f"sfumato: {error.message}")
