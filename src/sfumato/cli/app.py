"""The commands of `sfumato`."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato.cli.cache import cache
from sfumato.cli.check import check
from sfumato.cli.demo import demo
from sfumato.cli.emulator import emulator
from sfumato.cli.proxy import proxy
from sfumato.cli.serve import serve
from sfumato.cli.variants import variants

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def _show_version(asked: bool) -> None:
    if asked:
        import sfumato  # noqa: PLC0415  # the version is read from the package's metadata only here

        typer.echo(f"sfumato {sfumato.__version__}")
        raise typer.Exit


@app.callback()
def sfumato_command(
    *,
    version: Annotated[  # its callback does the work
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Gemini 3 Pro Image behind the OpenAI Images API."""


for command in (serve, proxy, emulator, demo, variants, check):
    app.command()(command)
app.add_typer(cache, name="cache")
