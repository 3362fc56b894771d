"""`sfumato proxy`: the LiteLLM proxy with the middleware in front."""

from __future__ import annotations

import logging.config
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.errors import ConfigurationError

if TYPE_CHECKING:
    from sfumato.cli.draining import Served

# LiteLLM's own variable (1.106.2, proxy/proxy_server.py); every worker reads it.
_CONFIG_VARIABLE = "CONFIG_FILE_PATH"
_LITELLMS_LOGGERS = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router")


def proxy(
    *,
    config: Annotated[Path, typer.Option(help="LiteLLM's config.yaml.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 4000,
    workers: Annotated[int, typer.Option(help="Processes.", min=1, max=64)] = 1,
    log_level: Annotated[str | None, typer.Option(help="In place of GEMINI_IMAGE_LOG_LEVEL.")] = None,
) -> None:
    """Run the LiteLLM proxy so that pictures pass by LiteLLM and nothing of an answer is lost.

    Needs LiteLLM's config.yaml, in which `gemini-image` is `sfumato.litellm.provider`, and what it asks for. Who may
    call is LiteLLM's to decide.
    """
    from sfumato.cli.listening import open_socket, run  # noqa: PLC0415  # what other commands do not need
    from sfumato.cli.log_config import log_config  # noqa: PLC0415
    from sfumato.settings import load_settings  # noqa: PLC0415

    check(config)
    settings = load_settings(log_level=log_level) if log_level else load_settings()
    os.environ[_CONFIG_VARIABLE] = str(config.resolve())
    logs = log_config(settings.log_level)
    logging.config.dictConfig(logs)
    run(
        build_served,
        open_socket(host, port),
        name="sfumato proxy",
        log_config=logs,
        workers=workers,
        grace_seconds=settings.grace_seconds,
    )


def check(config: Path) -> None:
    """Refuse to start without LiteLLM's proxy or its configuration.

    Raises:
        ConfigurationError: The message says what is missing.
    """
    if any(find_spec(name) is None for name in ("litellm", "fastapi")):
        raise ConfigurationError("LiteLLM's proxy is missing: pip install 'sfumato[proxy]'.")
    if not config.is_file():
        # LiteLLM itself would start, without a model.
        raise ConfigurationError(f"--config: there is no file {config}. Name LiteLLM's config.yaml.")


def build_served() -> Served:
    """Create what `proxy` serves, in each of its processes.

    Raises:
        ConfigurationError: The environment is invalid.
    """
    import sfumato.litellm as room  # noqa: PLC0415  # LiteLLM takes seconds to load
    from sfumato.cli.draining import Served, working_seconds  # noqa: PLC0415  # it loads uvicorn
    from sfumato.litellm.custom_llm import GeminiImageLLM  # noqa: PLC0415
    from sfumato.runtime import Runtime  # noqa: PLC0415
    from sfumato.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    grace_seconds = working_seconds(settings.grace_seconds)
    runtime = Runtime(settings.model_copy(update={"grace_seconds": grace_seconds}), export=True)
    # Before anything names it: config.yaml and the app find this one.
    room.provider = GeminiImageLLM(runtime)
    from sfumato.litellm.proxy import app  # noqa: PLC0415  # see above

    for name in _LITELLMS_LOGGERS:
        # They have handlers of their own, which take secrets out.
        logging.getLogger(name).propagate = False
    return Served(app, runtime.begin_drain)
