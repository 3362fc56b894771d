"""What the demo shows: a progress bar, a table, and the pictures in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sfumato.cli.console import wide_console
from sfumato.cli.demo_checks import told_format, told_pixels
from sfumato.cli.demo_job import Outcome


class DemoReport:
    """Write to the terminal and to a folder.

    Args:
        folder: For the pictures; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._console = wide_console()

    def say(self, text: str, *, style: str | None = None) -> None:
        """Write a line."""
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show that something takes its time."""
        with self._console.status(text):
            yield

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[Outcome], None]]:
        """Show a bar; the callable moves it by one outcome."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task(text, total=total)

            def advance(outcome: Outcome) -> None:
                bar.update(task, advance=1, description=f"{text}: {outcome.step.name}")

            yield advance
            bar.update(task, description=text)

    def table(self, title: str, outcomes: Sequence[Outcome], misses: Mapping[str, Sequence[str]]) -> None:
        """Show what was asked and what came."""
        table = Table(title=title)
        for name in ("model", "asked", "got", "format", "cache"):
            table.add_column(name, no_wrap=True)
        for name in ("USD", "s"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("result", no_wrap=True)
        for outcome in outcomes:
            step = outcome.step
            asked = "{}x{}".format(*step.pixels) if not step.refused else "a refusal"
            missed = bool(misses[step.name])
            table.add_row(
                step.variant.name,
                asked if step.name == step.variant.name else f"{asked}, {step.name}",
                _got(outcome),
                ", ".join(dict.fromkeys(map(told_format, outcome.pictures))) or "-",
                outcome.headers.get("x-gemini-image-cache", "-"),
                outcome.headers.get("x-gemini-image-cost", "-"),
                f"{outcome.seconds:.2f}",
                "MISS" if missed else "ok",
                style="bold red" if missed else None,
            )
        self._console.print(table)

    def save(self, half: str, outcomes: Sequence[Outcome]) -> int:
        """Write the pictures to a folder of the half's name; return how many."""
        folder = self._folder / half
        folder.mkdir(parents=True, exist_ok=True)
        count = 0
        for outcome in outcomes:
            stem = re.sub(r"[^a-z0-9.]+", "-", outcome.step.name.lower())
            for number, picture in enumerate(outcome.pictures, start=1):
                suffix = f"-{number}" if len(outcome.pictures) > 1 else ""
                (folder / f"{stem}{suffix}.{told_format(picture)}").write_bytes(picture)
                count += 1
        return count


def _got(outcome: Outcome) -> str:
    if not outcome.pictures:
        return f"status {outcome.status}"
    sizes = list(dict.fromkeys(map(told_pixels, outcome.pictures)))
    return (f"{len(outcome.pictures)} of " if len(outcome.pictures) > 1 else "") + ", ".join(sizes)
