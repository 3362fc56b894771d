"""`sfumato cache warm`: make pictures ahead of time, so that the first client finds them."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.cache_access import run_on_cache, shared_settings
from sfumato.cli.cache_tables import print_json, print_pairs
from sfumato.cli.console import wide_console
from sfumato.errors import ConfigurationError, ImageError, QuotaExhaustedError, UpstreamAuthError

if TYPE_CHECKING:
    from rich.console import Console

    from sfumato.cache.image_cache import ImageCache
    from sfumato.cli.cache_orders import Estimate, Order
    from sfumato.images.request import ImageResult
    from sfumato.settings import Settings

_SHOWN_FAILURES = 20
_INTERRUPTED = 130
# Every further request would meet the same.
_HOPELESS = (ConfigurationError, QuotaExhaustedError, UpstreamAuthError)


@dataclass(slots=True)
class WarmSummary:
    """What came of the requests so far."""

    requests: int
    done: int = 0
    made: int = 0
    hits: int = 0
    not_kept: int = 0
    fresh: set[str] = field(default_factory=set)
    cost_usd: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    hopeless: bool = False

    @property
    def complete(self) -> bool:
        """Tell whether every picture is in the cache now."""
        return self.done == self.requests and not self.codes and not self.not_kept

    def count(self, order: Order, result: ImageResult) -> None:
        """Take in an answer."""
        fresh = [order.keys[image.slot] for image in result.images if image.age_seconds is None]
        self.done += 1
        self.made += len(fresh)
        self.hits += len(result.images) - len(fresh)
        self.fresh.update(fresh)
        self.cost_usd += result.cost_usd
        for failure in result.failures:
            self._fail(order, failure.error)

    def fail(self, order: Order, error: ImageError) -> None:
        """Take in a request that gave no picture."""
        self.done += 1
        self._fail(order, error, pictures=order.request.n)

    def describe(self) -> dict[str, Any]:
        """Return the summary."""
        return {
            "requests": self.requests,
            "made": self.made,
            "hits": self.hits,
            "failed": sum(self.codes.values()),
            "failures_by_code": dict(sorted(self.codes.items())),
            "not_kept": self.not_kept,
            "not_tried": self.requests - self.done,
            "cost_usd": round(self.cost_usd, 6),
        }

    def _fail(self, order: Order, error: ImageError, *, pictures: int = 1) -> None:
        self.codes[error.code] += pictures
        self.failures.append(f"{order.place}: {error.code} {error.message}")
        self.hopeless |= isinstance(error, _HOPELESS)


def warm(
    file: Annotated[
        Path,
        typer.Argument(
            help="Generation requests in OpenAI's parameters: JSON lines, or a list.", exists=True, dir_okay=False
        ),
    ],
    *,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.", min=1, max=64)] = 4,
    tenant: Annotated[
        str | None, typer.Option(help="For whom; needed where the cache keeps tenants apart.", metavar="LABEL")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before paying.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout, the rest on stderr.")] = False,
) -> None:
    """Make pictures ahead of time, so that the first client finds them.

    Checks every line, says what is cached already and about what the rest costs, and asks. Ends with 1 when a picture
    is missing afterwards.
    """
    from sfumato.cli.cache_orders import estimate, read_orders  # noqa: PLC0415  # it loads most of the package

    settings = shared_settings()
    if settings.cache_scope == "tenant" and tenant is None:
        raise ConfigurationError(
            "The cache keeps tenants apart (GEMINI_IMAGE_CACHE_SCOPE): say for whom with --tenant."
        )

    async def plan(cache: ImageCache) -> tuple[tuple[Order, ...], Estimate]:
        orders = read_orders(file, cache=cache, policy=settings.policy, tenant=tenant)
        return orders, estimate(orders, await cache.held({key for order in orders for key in order.keys}))

    orders, expected = run_on_cache(settings, plan)
    console = wide_console(stderr=as_json)
    _say(console, f"{len(orders)} requests for {expected.pictures} pictures, {expected.cached} of them cached already.")
    if expected.missing:
        _ask(console, settings, expected, yes=yes)
    summary = WarmSummary(len(orders))
    try:
        with _progress(console, len(orders)) as advance:
            asyncio.run(_make_all(orders, settings, summary, concurrency=concurrency, advance=advance))
    except KeyboardInterrupt:
        _summarize(console, summary, as_json=as_json)
        raise typer.Exit(_INTERRUPTED) from None
    _summarize(console, summary, as_json=as_json)
    if not summary.complete:
        raise typer.Exit(1)


def _ask(console: Console, settings: Settings, expected: Estimate, *, yes: bool) -> None:
    if not settings.has_accounts:
        raise ConfigurationError("There is no Gemini key to make them with: set GEMINI_API_KEY or GEMINI_API_KEYS.")
    cents = math.ceil(expected.cost_usd * 100) / 100
    _say(
        console,
        f"Making {expected.missing} costs about USD {cents:.2f} by the price table; prompts and thinking add a little.",
        style="bold yellow",
    )
    if not yes:
        typer.confirm("Go on?", abort=True, err=True)


async def _make_all(
    orders: Sequence[Order], settings: Settings, summary: WarmSummary, *, concurrency: int, advance: Callable[[], None]
) -> None:
    """Ask for everything on the one path, some at a time; what came is in *summary* also when this is cancelled."""
    from sfumato.runtime import Runtime  # noqa: PLC0415  # it loads most of the package
    from sfumato.telemetry.observer import Call, NullObserver  # noqa: PLC0415

    runtime = Runtime(settings, observer=NullObserver())
    waiting = iter(orders)

    async def work() -> None:
        for order in waiting:
            if summary.hopeless:
                return
            call = Call(request_id=f"warm_{uuid.uuid4().hex}")
            try:
                summary.count(order, await runtime.client.generate(order.wish, call=call))
            except ImageError as error:
                summary.fail(order, error)
            advance()

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, len(orders))):
                workers.create_task(work())
    finally:
        # Storing goes on behind an answer.
        await runtime.client.settle()
        summary.not_kept = len(summary.fresh) - len(await _held(runtime.client.cache, summary.fresh))
        await runtime.aclose()


async def _held(cache: ImageCache, keys: Collection[str]) -> Collection[str]:
    from sfumato.cache.image_cache import CacheUnavailableError  # noqa: PLC0415  # with this command only

    try:
        return await cache.held(keys)
    except CacheUnavailableError:
        return ()


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Warming", total=total)
        yield lambda: bar.advance(task)


def _summarize(console: Console, summary: WarmSummary, *, as_json: bool) -> None:
    for failure in summary.failures[:_SHOWN_FAILURES]:
        _say(console, failure, style="bold red")
    if len(summary.failures) > _SHOWN_FAILURES:
        _say(console, f"and {len(summary.failures) - _SHOWN_FAILURES} more", style="bold red")
    if summary.hopeless:
        _say(console, "Stopped: the rest would most likely have met the same.", style="bold red")
    if summary.not_kept:
        _say(console, "Pictures were made and not kept: see `sfumato check`.", style="bold red")
    told = summary.describe()
    if as_json:
        print_json(told)
        return
    by_code = told.pop("failures_by_code")
    print_pairs({**told, **by_code}, title="Done" if summary.complete else "Not all is done")


def _say(console: Console, text: str, *, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
