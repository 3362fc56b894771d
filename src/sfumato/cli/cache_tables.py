"""What `sfumato cache` shows: tables for people, JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli.console import wide_console

if TYPE_CHECKING:
    from sfumato.cache.entry import EntryHeader

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def describe_all(headers: Iterable[EntryHeader]) -> list[dict[str, Any]]:
    """Return what is known of entries, for JSON; ages as of now."""
    from sfumato.cache.entry import describe  # noqa: PLC0415  # at its first use, as all of the package

    now = time.time()
    return [describe(header, now=now) for header in headers]


def print_json(document: Any) -> None:
    """Write a document to stdout."""
    import msgspec  # noqa: PLC0415  # at its first use

    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_entries(entries: Sequence[Mapping[str, Any]], *, full: bool) -> None:
    """Show entries as a table; *full* says that there may be more than the limit let through."""
    from rich.table import Table  # noqa: PLC0415  # only tables need it

    table = Table(title=f"{len(entries)} entries" + (", and there may be more" if full else ""))
    for name in ("variant", "slot", "prompt hash", "pixels", "size", "age", "expires in", "USD", "tenant"):
        numeric = name in ("slot", "size", "age", "expires in", "USD")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for entry in entries:
        table.add_row(
            entry["variant"],
            entry["key"].rpartition(":")[2],
            entry["prompt_sha256"][:16],
            f"{entry['width']}x{entry['height']}",
            told_size(entry["size_bytes"]),
            told_time(entry["age_seconds"]),
            told_time(entry["expires_in_seconds"]),
            f"{entry['price_usd']:.3f}",
            entry["tenant"] or "-",
        )
    wide_console().print(table)


def print_pairs(pairs: Mapping[str, Any], *, title: str) -> None:
    """Show names and values as a table."""
    from rich.table import Table  # noqa: PLC0415  # only tables need it
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(*(Text(text, overflow="fold") for text in _told(name, value)))
    wide_console().print(table)


def told_size(size_bytes: float) -> str:
    """Write a number of bytes in MB."""
    return f"{size_bytes / 1024 / 1024:.2f} MB"


def told_time(seconds: float) -> str:
    """Write a duration in its largest whole unit."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _told(name: str, value: Any) -> tuple[str, str]:
    if value is None:
        return name, "-"
    if name.endswith("_bytes"):
        return name.removesuffix("_bytes"), told_size(value)
    if name.endswith("_seconds"):
        return name.removesuffix("_seconds"), told_time(value)
    if name == "used_share":
        return "used", f"{value:.0%}"
    if name == "usage":
        return name, ", ".join(f"{word} {count}" for word, count in value.items() if count)
    return name, str(value)
