"""`sfumato variants`: the model names, and what each of them draws."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato.cli.console import wide_console
from sfumato.images.models import FAMILIES, ModelFamily
from sfumato.images.pricing import price_usd
from sfumato.images.request import Usage
from sfumato.images.variants import Variant, canonical_variants, list_variants, require_variant

_EVERY = "all"


def variants(
    *,
    canonical: Annotated[bool, typer.Option("--canonical", help="The 21 canonical names only.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model, or `all`; gemini-3-pro-image by default. May be repeated.", metavar="NAME"),
    ] = None,
    litellm: Annotated[
        bool, typer.Option("--litellm", help="Print model_list entries for LiteLLM's config.yaml.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="One name a line.")] = False,
) -> None:
    """List the model names with their ratio, tier, pixels and price per picture."""
    listed = _select(model or [], canonical=canonical)
    if litellm:
        typer.echo(litellm_entries(listed), nl=False)
    elif plain:
        typer.echo("\n".join(variant.name for variant in listed))
    else:
        _print_table(listed)


def litellm_entries(listed: tuple[Variant, ...]) -> str:
    """Return `model_list` of LiteLLM's config.yaml with an entry per variant, as YAML text.

    A wildcard serves the same names; entries of their own stand in LiteLLM's `/v1/models`, which expands none.
    """
    lines = ["model_list:"]
    for variant in listed:
        lines += [
            f"  - model_name: {variant.name}",
            "    litellm_params:",
            f"      model: gemini-image/{variant.name}",
            "    model_info:",
            "      mode: image_generation",
        ]
    return "\n".join(lines) + "\n"


def price_per_picture(variant: Variant) -> float:
    """Return what Google bills for the picture's own tokens, in USD; the prompt and thinking come on top."""
    return price_usd(variant.family, variant.tier, Usage())


def _select(models: list[str], *, canonical: bool) -> tuple[Variant, ...]:
    wanted = [family for name in models or [FAMILIES[0].name] for family in _families(name)]
    if canonical:
        return tuple(variant for variant in canonical_variants() if variant.family in wanted)
    return tuple(variant for family in FAMILIES if family in wanted for variant in list_variants(family))


def _families(name: str) -> tuple[ModelFamily, ...]:
    if name == _EVERY:
        return FAMILIES
    return (require_variant(name).family,)


def _print_table(listed: tuple[Variant, ...]) -> None:
    from rich.table import Table  # noqa: PLC0415  # only tables need it

    table = Table(title=f"{len(listed)} variants")
    for title, justify in (("model", "left"), ("ratio", "right"), ("tier", "right"), ("pixels", "right")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a literal in disguise
    table.add_column("USD per picture", justify="right")
    for variant in listed:
        family = variant.family
        width, height = family.pixel_size(variant.tier, variant.aspect_ratio)
        tier = variant.tier or family.default_tier or "-"
        price = f"{price_per_picture(variant):.3f}"
        table.add_row(variant.name, variant.aspect_ratio or "-", tier, f"{width}x{height}", price)
    wide_console().print(table)
