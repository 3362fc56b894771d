"""`sfumato demo`: the main job end to end, on real processes, checked."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.errors import ConfigurationError

if TYPE_CHECKING:
    from sfumato.cli.demo_job import Step
    from sfumato.cli.demo_report import DemoReport

_NEEDED = ("litellm", "fastapi", "openai")
# LiteLLM takes 11 to 52 s, by how busy the machine is.
_START_SECONDS = 180.0
_UPSTREAM_FIELDS = ("api_key", "api_keys", "api_base", "api_version")
_CONFIG = """\
model_list:
  - model_name: gemini-3-pro-image*
    litellm_params:
      model: gemini-image/gemini-3-pro-image*
    model_info:
      mode: image_generation
litellm_settings:
  custom_provider_map:
    - provider: gemini-image
      custom_handler: sfumato.litellm.provider
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the demo does, and where."""

    steps: tuple[Step, ...]
    emulated: bool
    config: Path
    app: Path | None
    work: Path
    out: Path


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the services' logs.")] = Path("out"),
    config: Annotated[
        Path | None, typer.Option(help="LiteLLM's config.yaml; by default one like the example's.", exists=True)
    ] = None,
    app: Annotated[
        Path | None, typer.Option(help="FastAPI app, a file; by default one like the example's.", exists=True)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Three cheap variants instead of 21, n=2 instead of n=4.")
    ] = False,
    emulator: Annotated[
        bool, typer.Option("--emulator", help="Use the emulator although there is a Gemini key.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With a Gemini key: pay for the whole job (about USD 4.40).")
    ] = False,
) -> None:
    """Make pictures as an OpenAI client, through a real LiteLLM proxy and through a FastAPI app, and check them.

    Uses the emulator. With GEMINI_API_KEY set it uses the real API and pays for it: only for `--quick` (about USD 0.95)
    unless `--yes` allows the whole job. Ends with 1 when anything is not as promised, and names it.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"The demo needs {', '.join(missing)}: pip install 'sfumato[proxy,cli]'")
    from sfumato.cli.demo_job import build_steps, estimate_usd  # noqa: PLC0415  # with the demo only
    from sfumato.cli.demo_report import DemoReport  # noqa: PLC0415
    from sfumato.settings import load_settings  # noqa: PLC0415

    emulated = emulator or not load_settings().accounts
    steps = build_steps(quick=quick or not (emulated or yes), emulated=emulated)
    report = DemoReport(out)
    if emulated:
        report.say("Using the emulator: nothing is billed. Set GEMINI_API_KEY to use the real API.")
    else:
        told = "" if quick or yes else " This is the quick job; --yes does the whole."
        report.say(f"Using the real API: Google bills about USD {estimate_usd(steps):.2f}.{told}", style="bold yellow")
    # As Ctrl-C, also for a job in the background: every block is left in order, and with it every process ended.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sfumato-demo-") as directory:
        work = Path(directory)
        if config is None:
            config = work / "config.yaml"
            config.write_text(_CONFIG)
        plan = _Plan(steps=steps, emulated=emulated, config=config.resolve(), app=app, work=work, out=out.resolve())
        misses = _run(plan, report)
    report.say(f"Pictures and logs: {out.resolve()}. It took {time.monotonic() - started:.0f} s.")
    if misses:
        for miss in misses:
            report.say(f"MISS {miss}", style="bold red")
        raise typer.Exit(1)
    report.say("Everything is as promised.", style="bold green")


def _run(plan: _Plan, report: DemoReport) -> list[str]:
    """Do both halves and return what is not as promised."""
    from sfumato.cli.demo_checks import app_misses  # noqa: PLC0415  # with the demo only

    _save_inputs(plan.out)
    with ExitStack() as stack:
        upstream = stack.enter_context(_emulator(plan)) if plan.emulated else {}
        key = f"sk-{secrets.token_hex(16)}"
        with report.waiting("Starting the LiteLLM proxy (10 to 30 s)"):
            proxy = stack.enter_context(_litellm(plan, key, upstream))
        misses = _half("litellm", "Through the LiteLLM proxy", plan, report, base_url=proxy, key=key)
        with report.waiting("Starting the FastAPI app"):
            app = stack.enter_context(_fastapi(plan, key, upstream))
        misses += _half("fastapi", "Through a FastAPI app with the middleware", plan, report, base_url=app, key=key)
        misses += [f"fastapi: {miss}" for miss in app_misses(app)]
    return misses


def _half(half: str, title: str, plan: _Plan, report: DemoReport, *, base_url: str, key: str) -> list[str]:
    from sfumato.cli.demo_checks import find_misses  # noqa: PLC0415  # with the demo only
    from sfumato.cli.demo_job import run_steps  # noqa: PLC0415

    with report.progress(title, len(plan.steps)) as advance:
        outcomes = asyncio.run(run_steps(plan.steps, base_url=base_url, api_key=key, on_done=advance))
    done = {outcome.step.name: outcome for outcome in outcomes}
    misses = {name: find_misses(outcome, done, emulated=plan.emulated) for name, outcome in done.items()}
    report.table(title, outcomes, misses)
    count = report.save(half, outcomes)
    report.say(f"{count} pictures saved in {plan.out / half}")
    return [f"{half}: {name}: {miss}" for name, found in misses.items() for miss in found]


def _save_inputs(out: Path) -> None:
    from sfumato.cli.demo_pictures import edit_input, edit_mask  # noqa: PLC0415  # with the demo only

    out.mkdir(parents=True, exist_ok=True)
    (out / "edit-input.png").write_bytes(edit_input())
    (out / "edit-mask.png").write_bytes(edit_mask())


@contextmanager
def _emulator(plan: _Plan) -> Iterator[dict[str, str]]:
    """Run the emulator; give the variables that point at it."""
    with _service(
        "The emulator", plan, "emulator", ["sfumato.cli", "emulator"], ready="/emulator/switches", env={}
    ) as url:
        yield {"GEMINI_API_KEY": "demo-key-of-the-emulator", "GEMINI_IMAGE_API_BASE": url}


@contextmanager
def _litellm(plan: _Plan, key: str, upstream: Mapping[str, str]) -> Iterator[str]:
    env = {
        **upstream,
        "GEMINI_IMAGE_CACHE_DIR": str(plan.work / "cache"),
        "LITELLM_MASTER_KEY": key,
        # Without it LiteLLM fetches its prices from the network at the start.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    command = ["litellm.proxy.proxy_cli", "--config", str(plan.config), "--telemetry", "False"]
    with _service("The LiteLLM proxy", plan, "litellm", command, ready="/health/liveliness", env=env) as url:
        yield url


@contextmanager
def _fastapi(plan: _Plan, key: str, upstream: Mapping[str, str]) -> Iterator[str]:
    # What Google was paid for once is not paid again: with the real API both halves share the cache.
    cache = plan.work / ("cache-2" if plan.emulated else "cache")
    env = {**upstream, "GEMINI_IMAGE_CACHE_DIR": str(cache), "APP_KEY": key}
    place = ["--app-dir", str(plan.app.resolve().parent), f"{plan.app.stem}:app"] if plan.app else []
    command = ["uvicorn", *(place or ["sfumato.cli.demo_app:app"]), "--log-level", "warning"]
    with _service("The FastAPI app", plan, "fastapi", command, ready="/gemini-image/health", env=env) as url:
        yield url


@contextmanager
def _service(
    name: str, plan: _Plan, log: str, module: Sequence[str], *, ready: str, env: Mapping[str, str]
) -> Iterator[str]:
    from sfumato.cli.demo_processes import environment, free_port, service  # noqa: PLC0415  # with the demo only

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with service(
        name,
        [sys.executable, "-m", *module, "--host", "127.0.0.1", "--port", str(port)],
        ready_url=f"{url}{ready}",
        env=environment(env, keep=() if plan.emulated else _UPSTREAM_FIELDS),
        log=plan.out / f"{log}.log",
        timeout_seconds=_START_SECONDS,
    ):
        yield url
