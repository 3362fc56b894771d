"""What `sfumato cache warm` is to make: generation requests, read, checked and priced before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sfumato.cache.image_cache import ImageCache
from sfumato.errors import ConfigurationError, ImageError, InvalidParameterError
from sfumato.images.models import FAMILIES
from sfumato.images.pricing import price_usd
from sfumato.images.request import ImageRequest, Operation, Usage
from sfumato.images.resolution import ImageWish, RequestPolicy, resolve
from sfumato.images.variants import require_variant
from sfumato.wire.openai_images import parse_request

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Order:
    """One request of the file.

    Attributes:
        place: Where it stands: ``line 3``, or ``item 3`` of a list.
        wish: What it asks.
        request: The same with every decision made.
        keys: The cache keys of its pictures, by slot.
    """

    place: str
    wish: ImageWish
    request: ImageRequest
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is there, and about what the rest costs."""

    pictures: int
    cached: int
    cost_usd: float

    @property
    def missing(self) -> int:
        """Return how many pictures are to be made."""
        return self.pictures - self.cached


def read_orders(
    file: Path, *, cache: ImageCache, policy: RequestPolicy, tenant: str | None = None
) -> tuple[Order, ...]:
    """Read a JSON list or JSON lines of generation requests in OpenAI's parameters.

    Args:
        file: In UTF-8; blank lines are passed over.
        cache: Gives the keys.
        policy: The operator's decisions.
        tenant: For whom.

    Raises:
        ConfigurationError: Something cannot be read or served; the message names every place at fault.
    """
    orders: list[Order] = []
    problems: list[str] = []
    for place, document in _documents(file):
        try:
            orders.append(_order(place, document, cache, policy, tenant))
        except ImageError as error:
            problems.append(f"{place}: {error.message}")
    if problems:
        left_out = len(problems) - _SHOWN_PROBLEMS
        told = problems[:_SHOWN_PROBLEMS] + ([f"and {left_out} more"] if left_out > 0 else [])
        raise ConfigurationError(f"{file.name} cannot be used, nothing was made.\n  " + "\n  ".join(told))
    if not orders:
        raise ConfigurationError(f"{file.name} holds no requests.")
    return tuple(orders)


def estimate(orders: Sequence[Order], held: Collection[str]) -> Estimate:
    """Count what is to be made, by the price table: the pictures' own tokens, to which prompts and thinking add.

    Args:
        orders: The requests; what several of them ask for is made once.
        held: The keys that are cached.
    """
    there, pictures, cached, cost = set(held), 0, 0, 0.0
    for order in orders:
        request = order.request
        for key in order.keys:
            pictures += 1
            if key in there and not request.cache_control.no_cache:
                cached += 1
            else:
                cost += price_usd(request.variant.family, request.tier, Usage())
            there.add(key)
    return Estimate(pictures, cached, cost)


def _documents(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield each request and its place; what is no JSON is yielded as the error that says so."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"{file.name} cannot be read as UTF-8 text.") from None
    if text.lstrip().startswith("["):
        items = _decoded(text)
        if isinstance(items, ImageError):
            raise ConfigurationError(f"{file.name}: {items.message}")
        yield from ((f"item {number}", item) for number, item in enumerate(items, start=1))
        return
    # Not splitlines: JSON may hold characters unescaped that Python takes for ends of lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _decoded(line)


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return InvalidParameterError("This is not valid JSON.")


def _order(place: str, document: Any, cache: ImageCache, policy: RequestPolicy, tenant: str | None) -> Order:
    if isinstance(document, ImageError):
        raise document
    if not isinstance(document, dict):
        raise InvalidParameterError("Expected a JSON object with the parameters of a generation.")
    model = document.get("model") or FAMILIES[0].name
    variant = require_variant(str(model))
    wish = parse_request(Operation.GENERATION, variant, document, drop_unknown=policy.drop_unknown, tenant=tenant)
    request = resolve(wish, policy)
    if cache.ttl_seconds(request) is None:
        raise InvalidParameterError("'cache' says that nothing is to be kept.", param="cache")
    return Order(place, wish, request, tuple(cache.key(request, slot) for slot in range(request.n)))
