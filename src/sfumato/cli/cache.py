"""`sfumato cache`: look into the configured cache, remove from it, fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.cache_access import fail, run_on_cache, shared_settings
from sfumato.cli.cache_tables import describe_all, print_entries, print_json, print_pairs
from sfumato.cli.cache_warm import warm

if TYPE_CHECKING:
    from sfumato.cache.entry import EntryHeader
    from sfumato.cache.image_cache import ImageCache

Key = Annotated[str | None, typer.Option("--key", help="An entry's key; without its slot, all slots.")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="A prompt exactly as the client sent it.")]
PromptHash = Annotated[
    str | None,
    typer.Option("--prompt-hash", help="Its SHA-256, or its beginning: the log's prompt_hash.", metavar="HEX"),
]
Model = Annotated[
    str | None, typer.Option("--model", help="A model with all its variants, or one variant.", metavar="NAME")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Who had the picture made.", metavar="LABEL")]
OlderThan = Annotated[
    float | None, typer.Option("--older-than", help="Made longer ago than this.", metavar="SECONDS", min=0)
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

cache = typer.Typer(no_args_is_help=True, help="Look into the configured cache, remove from it, fill it.")


@cache.command("stats")
def show_stats(*, as_json: AsJson = False) -> None:
    """Show what the cache holds and how much room is left.

    Hits are counted by each process for itself: see GET /gemini-image/cache.
    """
    settings = shared_settings()
    stats = run_on_cache(settings, lambda cache: cache.stats())
    held = stats.store
    if held is None:
        fail(settings, "it cannot count")
    share = held.size_bytes / held.capacity_bytes if held.capacity_bytes else None
    told = {
        "backend": settings.cache_backend,
        "scope": settings.cache_scope,
        "ttl_seconds": settings.cache_ttl,
        "entries": held.entries,
        "size_bytes": held.size_bytes,
        "capacity_bytes": held.capacity_bytes,
        "used_share": share,
    }
    if as_json:
        print_json(told)
    else:
        print_pairs(told, title="The cache")


@cache.command("list")
def show_list(
    *,
    limit: Annotated[int, typer.Option(help="Entries at most; 0 for all.", min=0)] = 50,
    prompt: Prompt = None,
    prompt_hash: PromptHash = None,
    model: Model = None,
    tenant: Tenant = None,
    older_than: OlderThan = None,
    plain: Annotated[bool, typer.Option("--plain", help="One key a line.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is known of the stored pictures, the newest of those found first."""
    from sfumato.cache.invalidation import parse_filter  # noqa: PLC0415  # at its first use, as all of the package

    where = parse_filter(
        prompt=prompt, prompt_hash=prompt_hash, model=model, tenant=tenant, older_than_seconds=older_than
    )

    async def collect(cache: ImageCache) -> list[EntryHeader]:
        return [header async for header in cache.entries(where, limit=limit or None)]

    found = sorted(run_on_cache(shared_settings(), collect), key=lambda header: -header.created)
    if plain:
        typer.echo("".join(f"{header.key}\n" for header in found), nl=False)
    elif as_json:
        print_json(describe_all(found))
    else:
        print_entries(describe_all(found), full=len(found) == limit)


@cache.command("get")
def show_entry(key: Annotated[str, typer.Argument(help="A key with its slot.")], *, as_json: AsJson = False) -> None:
    """Show what is known of one stored picture; ends with 1 when there is none."""
    header = run_on_cache(shared_settings(), lambda cache: cache.get(key))
    if header is None:
        typer.echo("There is no entry under this key.", err=True)
        raise typer.Exit(1)
    (told,) = describe_all([header])
    if as_json:
        print_json(told)
    else:
        print_pairs(told, title="An entry")


@cache.command("invalidate")
def invalidate(
    *,
    key: Key = None,
    prompt: Prompt = None,
    prompt_hash: PromptHash = None,
    model: Model = None,
    tenant: Tenant = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove the pictures that all of the options describe; asks when neither a key nor a prompt is among them."""
    from sfumato.cache.invalidation import EVERY_ENTRY, parse_filter  # noqa: PLC0415  # at its first use

    where = parse_filter(
        key=key, prompt=prompt, prompt_hash=prompt_hash, model=model, tenant=tenant, older_than_seconds=older_than
    )
    if where == EVERY_ENTRY:
        raise typer.BadParameter("say what to remove, or use `sfumato cache clear`")
    settings = shared_settings()
    if where.broad and not yes:
        said = {"model": model, "tenant": tenant, "older than": None if older_than is None else f"{older_than:g} s"}
        words = ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)
        typer.confirm(f"Remove every picture with {words}?", abort=True, err=True)
    _tell_removed(run_on_cache(settings, lambda cache: cache.invalidate(where)), as_json=as_json)


@cache.command("clear")
def clear(*, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove every picture; asks first."""
    settings = shared_settings()
    if not yes:
        typer.confirm(f"Remove every picture from the cache ({settings.cache_backend})?", abort=True, err=True)
    _tell_removed(run_on_cache(settings, lambda cache: cache.clear()), as_json=as_json)


cache.command("warm")(warm)


def _tell_removed(removed: int | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"removed": removed})
    else:
        typer.echo(f"Removed {removed} {'picture' if removed == 1 else 'pictures'}.")
