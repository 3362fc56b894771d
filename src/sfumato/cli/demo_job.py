"""The demo's job: what an OpenAI client asks for, and the asking."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sfumato.cli.demo_pictures import EDIT_PIXELS, edit_input, edit_mask
from sfumato.images.models import FAMILIES
from sfumato.images.pricing import price_usd
from sfumato.images.request import Usage
from sfumato.images.variants import Variant, canonical_variants

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_PROMPT = "A lighthouse at dusk, painted in oil, soft edges like sfumato"
_AT_A_TIME = 3
_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request and what has to come back.

    Attributes:
        name: Names the row and the files.
        pixels: Width and height of every picture.
        edit: Send the demo's picture and mask.
        refused: No picture may come, but a refusal.
        repeats: The step that this one repeats word for word.
    """

    name: str
    variant: Variant
    prompt: str
    pixels: tuple[int, int]
    n: int = 1
    edit: bool = False
    refused: bool = False
    repeats: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came back; status 0 when nothing did.

    Attributes:
        told: The answer's own fields beside the pictures, or the error's.
    """

    step: Step
    status: int
    seconds: float
    pictures: tuple[bytes, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def build_steps(*, quick: bool, emulated: bool) -> tuple[Step, ...]:
    """List the job: the variants, several pictures at once, an edit with a mask, a refusal, a repetition.

    Args:
        quick: Three cheap variants instead of all 21, two pictures at once instead of four.
        emulated: The refusal can be ordered; Google is only asked for what it should refuse.
    """
    base = Variant(FAMILIES[0])
    variants = canonical_variants()
    if quick:
        variants = (base, Variant(base.family, None, "16:9"), Variant(base.family, "2K", "9:16"))
    pixels = base.family.pixel_size(None, None)
    steps = [Step(name=v.name, variant=v, prompt=_PROMPT, pixels=_pixels(v)) for v in variants]
    first, n = steps[0], 2 if quick else 4
    refused = f"{_PROMPT} [[emulator:IMAGE_SAFETY]]" if emulated else "A graphic close-up of a bloody battlefield wound"
    extra = {} if emulated else {"safety_level": "HIGH"}
    steps += [
        Step(name=f"n={n}", variant=base, prompt=f"{_PROMPT}, seen from a boat", pixels=pixels, n=n),
        Step(name="edit with mask", variant=base, prompt="Add a full moon", pixels=EDIT_PIXELS, edit=True),
        Step(name="blocked prompt", variant=base, prompt=refused, pixels=pixels, refused=True, extra=extra),
        Step(name="repeated prompt", variant=base, prompt=_PROMPT, pixels=pixels, repeats=first.name),
    ]
    return tuple(steps)


def estimate_usd(steps: Sequence[Step]) -> float:
    """Return about what Google bills for *steps*, in USD."""
    billed = [step for step in steps if step.repeats is None]
    return sum(step.n * price_usd(step.variant.family, step.variant.tier, Usage()) for step in billed)


async def run_steps(
    steps: Sequence[Step], *, base_url: str, api_key: str, on_done: Callable[[Outcome], None]
) -> tuple[Outcome, ...]:
    """Ask for everything as an OpenAI client, repetitions last, and return the outcomes in the order of *steps*."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # noqa: PLC0415  # LiteLLM brings it

    outcomes: dict[str, Outcome] = {}
    places = asyncio.Semaphore(_AT_A_TIME)
    # The services are this machine's: a proxy from the environment must not stand between.
    http = DefaultAsyncHttpxClient(trust_env=False)
    async with AsyncOpenAI(
        base_url=f"{base_url}/v1", api_key=api_key, max_retries=0, timeout=_TIMEOUT_SECONDS, http_client=http
    ) as client:

        async def follow(step: Step) -> None:
            async with places:
                outcomes[step.name] = outcome = await _ask(client, step)
            on_done(outcome)

        for batch in ([s for s in steps if s.repeats is None], [s for s in steps if s.repeats is not None]):
            async with asyncio.TaskGroup() as group:
                for step in batch:
                    group.create_task(follow(step))
    return tuple(outcomes[step.name] for step in steps)


async def _ask(client: AsyncOpenAI, step: Step) -> Outcome:
    from openai import APIError, APIStatusError  # noqa: PLC0415

    started = time.monotonic()
    model = step.variant.name
    images = client.images.with_raw_response
    try:
        if step.edit:
            raw = await images.edit(
                model=model,
                prompt=step.prompt,
                n=step.n,
                image=("input.png", edit_input(), "image/png"),
                mask=("mask.png", edit_mask(), "image/png"),
                extra_body=dict(step.extra),
            )
        else:
            raw = await images.generate(model=model, prompt=step.prompt, n=step.n, extra_body=dict(step.extra))
    except APIStatusError as error:
        seconds = time.monotonic() - started
        told = error.body if isinstance(error.body, dict) else {"message": str(error)}
        return Outcome(
            step=step, status=error.status_code, seconds=seconds, told=told, headers=dict(error.response.headers)
        )
    except APIError as error:
        return Outcome(step=step, status=0, seconds=time.monotonic() - started, told={"message": str(error)})
    seconds = time.monotonic() - started
    answer = raw.parse()
    return Outcome(
        step=step,
        status=raw.status_code,
        seconds=seconds,
        pictures=tuple(base64.b64decode(image.b64_json or "") for image in answer.data or ()),
        told=answer.model_dump(exclude={"data"}),
        headers=dict(raw.headers),
    )


def _pixels(variant: Variant) -> tuple[int, int]:
    return variant.family.pixel_size(variant.tier, variant.aspect_ratio)
