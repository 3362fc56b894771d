"""`sfumato emulator`: a strict local Gemini API that draws real pictures."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato.cli.console import wide_console
from sfumato.errors import ConfigurationError


def emulator(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8080,
    latency: Annotated[float, typer.Option(help="Seconds before every picture.", min=0)] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="A switch for every call, such as `503;times=2`. May be repeated.", metavar="SWITCH"),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="A key to accept; without any, all but those with `invalid` in them. May be repeated."),
    ] = None,
    list_switches: Annotated[bool, typer.Option("--list-switches", help="List the switches and exit.")] = False,
) -> None:
    """Run a local Gemini API: as strict as Google's, free of charge, with faults on demand.

    Point GEMINI_IMAGE_API_BASE at it. Its calls stand at /emulator/journal.
    """
    from sfumato.emulator import SWITCHES, EmulatorOptions, create_emulator  # noqa: PLC0415  # it loads Pillow

    if list_switches:
        _print_switches({name: switch.description for name, switch in SWITCHES.items()})
        return
    options = EmulatorOptions(api_keys=tuple(api_key or ()), faults=",".join(fault or ()), latency_seconds=latency)
    try:
        app = create_emulator(options)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    from sfumato.cli.draining import Served  # noqa: PLC0415  # it loads uvicorn
    from sfumato.cli.listening import open_socket, run  # noqa: PLC0415
    from sfumato.cli.log_config import log_config  # noqa: PLC0415

    run(lambda: Served(app), open_socket(host, port), name="The Gemini emulator", log_config=log_config("INFO"))


def _print_switches(switches: dict[str, str]) -> None:
    from rich.table import Table  # noqa: PLC0415  # only tables need it

    table = Table("switch", "the call ends with", title="By --fault, by the header x-emulator-fault, or in a prompt")
    for name, description in switches.items():
        table.add_row(name, description)
    wide_console().print(table)
    typer.echo("Modifiers: `503;times=2` fails twice, `429;every=3` every third time. In a prompt: [[emulator:503]]")
