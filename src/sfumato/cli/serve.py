"""`sfumato serve`: the standalone app."""

from __future__ import annotations

import functools
import logging.config
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.errors import ConfigurationError

if TYPE_CHECKING:
    from sfumato.cli.draining import Served
    from sfumato.settings import Settings


def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everyone in: on a loopback address, for one's own machine.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes.", min=1, max=64)] = 1,
    log_level: Annotated[str | None, typer.Option(help="In place of GEMINI_IMAGE_LOG_LEVEL.")] = None,
) -> None:
    """Serve OpenAI's image routes for Gemini's models.

    Needs GEMINI_API_KEY (or GEMINI_API_KEYS), and GEMINI_IMAGE_CLIENT_KEYS or --no-auth. Logs go to stderr, a JSON line
    per request.
    """
    from sfumato.cli.listening import open_socket, run  # noqa: PLC0415  # what other commands do not need
    from sfumato.cli.log_config import log_config  # noqa: PLC0415
    from sfumato.settings import load_settings  # noqa: PLC0415

    settings = load_settings(log_level=log_level) if log_level else load_settings()
    check_access(settings, host=host, no_auth=no_auth)
    logs = log_config(settings.log_level)
    logging.config.dictConfig(logs)
    build = functools.partial(build_served, settings, no_auth=no_auth)
    # Built here in any case, so that a bad configuration ends this process and not worker after worker.
    served = build()
    run(
        build if workers > 1 else lambda: served,
        open_socket(host, port),
        name="sfumato",
        log_config=logs,
        workers=workers,
        grace_seconds=settings.grace_seconds,
    )


def build_served(settings: Settings, *, no_auth: bool) -> Served:
    """Create what `serve` serves.

    Raises:
        ConfigurationError: The settings ask for something that this version does not have.
    """
    from sfumato.asgi.app import create_app  # noqa: PLC0415  # at its first use: it loads most of the package
    from sfumato.cli.draining import Served, working_seconds  # noqa: PLC0415  # it loads uvicorn

    grace_seconds = working_seconds(settings.grace_seconds)
    app = create_app(settings.model_copy(update={"grace_seconds": grace_seconds}), anonymous=no_auth, export=True)
    return Served(app, app.state.runtime.begin_drain)


def check_access(settings: Settings, *, host: str, no_auth: bool) -> None:
    """Refuse to serve without a Gemini key, or where anyone could spend it.

    Raises:
        ConfigurationError: The message says what to set.
    """
    from sfumato.cli.listening import is_loopback  # noqa: PLC0415  # it loads uvicorn

    if not settings.has_accounts:
        raise ConfigurationError("There is no Gemini key: set GEMINI_API_KEY or GEMINI_API_KEYS.")
    if settings.client_keys and no_auth:
        raise ConfigurationError("--no-auth contradicts GEMINI_IMAGE_CLIENT_KEYS: leave one of them out.")
    if not settings.client_keys and not no_auth:
        raise ConfigurationError(
            "Nothing decides who may call: set GEMINI_IMAGE_CLIENT_KEYS=label:key,… "
            "or, on your own machine, pass --no-auth."
        )
    if no_auth and not is_loopback(host) and not settings.allow_anonymous:
        raise ConfigurationError(
            f"--no-auth on {host} would let everyone who reaches this machine spend your Gemini key. Listen on "
            "127.0.0.1, set GEMINI_IMAGE_CLIENT_KEYS, or, when something else guards the port, "
            "GEMINI_IMAGE_ALLOW_ANONYMOUS=true."
        )
