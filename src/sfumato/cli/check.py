"""`sfumato check`: the configuration doctor."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.console import wide_console
from sfumato.errors import ConfigurationError, ImageError, UpstreamAuthError
from sfumato.images.models import FAMILIES
from sfumato.images.variants import parse_variant

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

    from sfumato.settings import Settings
    from sfumato.upstream.accounts import Account

_TIMEOUT_SECONDS = 10.0


class _Findings:
    """Say what was found, and count what is wrong."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.problems = 0

    def fine(self, text: str) -> None:
        self._console.print(f"ok       {text}", style="green", markup=False, highlight=False, soft_wrap=True)

    def skipped(self, text: str) -> None:
        self._console.print(f"skipped  {text}", markup=False, highlight=False, soft_wrap=True)

    def problem(self, text: str) -> None:
        self.problems += 1
        self._console.print(f"PROBLEM  {text}", style="bold red", markup=False, highlight=False, soft_wrap=True)


def check(
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="Call neither Gemini nor a Redis that is not the cache.")
    ] = False,
    model: Annotated[str, typer.Option(help="The model to ask Gemini for.")] = FAMILIES[0].name,
) -> None:
    """Check the configuration: every variable, Gemini's answer to every key, the cache, and the Redis beside it.

    Ends with 1 when there is a problem. Never shows a secret; asking for a model costs nothing.
    """
    from sfumato.settings import load_settings, unknown_variables  # noqa: PLC0415

    # What the runtime warns of at its start stands among the findings.
    logging.getLogger("sfumato").addHandler(logging.NullHandler())
    console = wide_console()
    findings = _Findings(console)
    for name, closest in unknown_variables():
        findings.problem(f"{name} means nothing to sfumato. Did you mean {closest}?")
    try:
        settings = load_settings()
    except ConfigurationError as error:
        findings.problem(error.message)
    else:
        _print_variables(console, settings)
        accounts = _check_accounts(settings, findings)
        usable = _check_together(settings, findings)
        if offline:
            findings.skipped("Gemini, because of --offline")
        else:
            asyncio.run(_check_upstream(accounts, model, findings))
        if usable:
            asyncio.run(_check_cache(settings, findings))
            asyncio.run(_check_coordination(settings, findings, offline=offline))
    if findings.problems:
        raise typer.Exit(1)


def _print_variables(console: Console, settings: Settings) -> None:
    from rich.table import Table  # noqa: PLC0415  # only tables need it
    from rich.text import Text  # noqa: PLC0415

    table = Table("variable", "value", "from")
    table.columns[0].overflow = "fold"
    for variable in settings.variables():
        source = variable.source if variable.source != variable.names[0] else "environment"
        style = "dim" if source == "default" else ""
        table.add_row(variable.names[0], Text(variable.value, overflow="fold"), source, style=style)
    console.print(table)


def _check_accounts(settings: Settings, findings: _Findings) -> tuple[Account, ...]:
    from sfumato.upstream.account_file import build_accounts  # noqa: PLC0415  # with this command only

    try:
        accounts = build_accounts(settings)
    except ConfigurationError:
        # The start-up that is tried next says it.
        return ()
    if accounts:
        findings.fine(f"Accounts: {', '.join(account.label for account in accounts)}")
    else:
        findings.problem("There is no Gemini key: set GEMINI_API_KEY, GEMINI_API_KEYS or GEMINI_IMAGE_ACCOUNTS_FILE.")
    return accounts


def _check_together(settings: Settings, findings: _Findings) -> bool:
    """Return whether a process would start with these settings."""
    from sfumato.runtime import check_settings  # noqa: PLC0415  # it loads most of the package

    try:
        check_settings(settings)
    except ConfigurationError as error:
        findings.problem(error.message)
        return False
    return True


async def _check_upstream(accounts: Sequence[Account], model: str, findings: _Findings) -> None:
    """Ask for the model's description with every key; of Vertex AI, whose models have none, only for a token."""
    import httpx  # noqa: PLC0415  # with this command only

    variant = parse_variant(model)
    name = variant.family.name if variant else model
    async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False, follow_redirects=False) as client:
        for account in accounts:
            try:
                headers = await account.credentials.headers()
            except ImageError as error:
                findings.problem(f"no token for the account '{account.label}': {error.message}")
                continue
            if account.backend == "vertex":
                findings.fine(f"authorized: the account '{account.label}' has a token for {account.server}")
                continue
            url = f"{account.base}/{account.version}/models/{name}"
            told = f"{url} with the key '{account.label}'"
            try:
                answer = await client.get(url, headers=dict(headers))
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                findings.problem(f"unreachable: {told} ({type(error).__name__})")
                continue
            if answer.status_code == 200:
                findings.fine(f"reachable: {told}")
            else:
                findings.problem(_verdict(answer, told))


def _verdict(answer: httpx.Response, told: str) -> str:
    from sfumato.wire.gemini_errors import parse_error  # noqa: PLC0415  # with this command only

    error = parse_error(answer.status_code, answer.content)
    if isinstance(error, UpstreamAuthError):
        return f"key refused: {told}: {error.message}"
    return f"Gemini answered {answer.status_code}: {told}: {error.message}"


async def _check_cache(settings: Settings, findings: _Findings) -> None:
    """Write a probe into the configured store, read it and remove it."""
    from sfumato.cache.factory import create_store  # noqa: PLC0415
    from sfumato.cache.noop import NoopStore  # noqa: PLC0415  # with this command only

    name = f"the cache ({settings.cache_backend})"
    store = create_store(settings)
    if isinstance(store, NoopStore):
        findings.skipped("the cache, because it is off")
        return
    key, value = f"check:{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        kept = await store.set(key, [value], expires_in=60)
        found = await store.get(key)
        await store.delete(key)
    except Exception as error:  # noqa: BLE001  # a store raises whatever its medium raises
        # The text of another error could hold an address with a password.
        reason = error if isinstance(error, OSError) else type(error).__name__
        findings.problem(f"{name} cannot be used: {reason}")
    else:
        if kept and found == value:
            findings.fine(f"{name} keeps and returns values")
        else:
            findings.problem(f"{name} does not return what it is given")
    finally:
        await store.aclose()


async def _check_coordination(settings: Settings, findings: _Findings, *, offline: bool) -> None:
    """Ask the Redis over which processes share accounts, where it is not the cache's."""
    from sfumato.cache.factory import create_redis  # noqa: PLC0415
    from sfumato.cache.store import StoreUnavailableError  # noqa: PLC0415  # with this command only

    if settings.redis_url is None or (settings.cache_enabled and settings.cache_backend == "redis"):
        return
    if offline:
        findings.skipped("the Redis of REDIS_URL, because of --offline")
        return
    redis = create_redis(settings)
    if redis is None:
        findings.skipped("the Redis of REDIS_URL, because the extra 'redis' is not installed: accounts are not shared")
        return
    try:
        await redis.execute("PING")
    except StoreUnavailableError as error:
        findings.problem(f"the Redis of REDIS_URL cannot be used: {error}")
    else:
        findings.fine("the Redis of REDIS_URL answers")
    finally:
        await redis.aclose()
