"""The demo's own checks have teeth: every promise that an outcome breaks is named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sfumato.cli.demo_checks import app_misses, find_misses
from sfumato.cli.demo_job import Outcome, Step, build_steps, estimate_usd
from sfumato.cli.demo_pictures import EDIT_BOX, EDIT_PIXELS, edit_input, edit_mask
from tests.support import samples
from tests.support.servers import serving

STEPS = {step.name: step for step in build_steps(quick=False, emulated=True)}
PLAIN, SEVERAL = STEPS["gemini-3-pro-image-16x9"], STEPS["n=4"]
EDIT, REFUSED, REPEATED = STEPS["edit with mask"], STEPS["blocked prompt"], STEPS["repeated prompt"]
FRESH = {"x-gemini-image-cache": "miss", "x-gemini-image-cost": "0.134000"}
HIT = {"x-gemini-image-cache": "hit", "x-gemini-image-cost": "0.000000"}


def picture(width: int, height: int, *, seed: int = 1, form: str = "JPEG") -> bytes:
    return samples.encoded(samples.noise(width, height, seed=seed), form)


WIDE, SQUARE = picture(1376, 768), picture(1024, 1024)


def outcome(step: Step, *pictures: bytes, **fields: Any) -> Outcome:
    values: dict[str, Any] = {"status": 200, "seconds": 0.1, "headers": FRESH, **fields}
    return Outcome(step=step, pictures=pictures, **values)


def misses(found: Outcome, *, emulated: bool = True, done: dict[str, Outcome] | None = None) -> str:
    return "; ".join(find_misses(found, done or {}, emulated=emulated))


def edited(box: tuple[int, int, int, int], *, color: str = "white") -> bytes:
    image = samples.opened(edit_input())
    image.paste(Image.new("RGB", (box[2] - box[0], box[3] - box[1]), color), box[:2])
    return samples.encoded(image)


def test_the_job_is_the_21_variants_n_an_edit_a_refusal_and_a_repetition() -> None:
    assert len(STEPS) == 25
    assert sum(step.n for step in STEPS.values() if step.n > 1) == 4
    assert [step.edit for step in STEPS.values()].count(True) == 1
    assert REPEATED.prompt == STEPS["gemini-3-pro-image"].prompt
    assert estimate_usd(tuple(STEPS.values())) == pytest.approx(4.40, rel=0.02)
    assert estimate_usd(build_steps(quick=True, emulated=False)) == pytest.approx(0.95, rel=0.02)


def test_what_is_promised_passes() -> None:
    first = outcome(STEPS["gemini-3-pro-image"], SQUARE)
    assert not misses(outcome(PLAIN, WIDE, told={"size": "1376x768", "output_format": "jpeg"}))
    assert not misses(outcome(SEVERAL, SQUARE, SQUARE, SQUARE, SQUARE))
    assert not misses(outcome(EDIT, edited(EDIT_BOX)))
    assert not misses(outcome(REPEATED, SQUARE, headers=HIT), done={"gemini-3-pro-image": first})
    assert not misses(outcome(REFUSED, status=400, told={"code": "moderation_blocked"}))
    assert not misses(outcome(REFUSED, status=400, told={"code": "400", "message": "x: IMG_SAFETY_BLOCKED: no"}))


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (outcome(PLAIN, status=502, told={"message": "Gemini is down"}), "status 502, expected 200: Gemini is down"),
        (outcome(PLAIN), "0 pictures, expected 1"),
        (outcome(SEVERAL, SQUARE, SQUARE), "2 pictures, expected 4"),
        (outcome(PLAIN, SQUARE), "1024x1024 pixels, expected 1376x768"),
        (outcome(PLAIN, b"no picture"), "unreadable"),
        (outcome(PLAIN, WIDE, told={"size": "1x1"}), "size=1x1"),
        (outcome(PLAIN, WIDE, told={"output_format": "png"}), "output_format=png"),
        (
            outcome(PLAIN, WIDE, headers={}),
            "x-gemini-image-cache is None, expected miss; there is no x-gemini-image-co",
        ),
        (outcome(PLAIN, WIDE, headers=HIT), "x-gemini-image-cache is hit, expected miss"),
        (
            outcome(PLAIN, WIDE, headers={**FRESH, "x-gemini-image-cost": "0"}),
            "it cost 0 USD with a cache status of miss",
        ),
        (outcome(REFUSED, SQUARE), "status 200, expected 400"),
        (outcome(REFUSED, status=400, told={"message": "no"}), "does not name its code"),
        (outcome(EDIT, edited((0, 0, *EDIT_BOX[2:]))), "outside the mask"),
        (outcome(EDIT, edited((EDIT_BOX[0], EDIT_BOX[1], EDIT_BOX[2] + 1, EDIT_BOX[3]))), "outside the mask"),
        (outcome(EDIT, edit_input()), "nothing was edited"),
        (outcome(EDIT, samples.encoded(samples.noise(*EDIT_PIXELS, mode="RGBA"))), "the edit is RGBA"),
        (outcome(EDIT, edited(EDIT_BOX)[:200]), ""),
    ],
)
def test_a_broken_promise_is_named(found: Outcome, named: str) -> None:
    assert named in misses(found)


def test_a_repetition_must_be_the_same_picture_from_the_cache() -> None:
    done = {"gemini-3-pro-image": outcome(STEPS["gemini-3-pro-image"], SQUARE)}

    assert "another picture" in misses(outcome(REPEATED, picture(1024, 1024, seed=2), headers=HIT), done=done)
    assert "expected hit" in misses(outcome(REPEATED, SQUARE), done=done)


def test_with_google_only_what_it_decides_is_taken_as_it_comes() -> None:
    assert not misses(outcome(PLAIN, picture(1408, 768)), emulated=False)
    assert misses(outcome(PLAIN, SQUARE), emulated=False)
    assert not misses(outcome(SEVERAL, SQUARE), emulated=False)
    assert misses(outcome(SEVERAL), emulated=False)
    assert not misses(outcome(PLAIN, WIDE, headers=HIT), emulated=False)
    assert not misses(outcome(REFUSED, SQUARE), emulated=False)
    assert misses(outcome(REFUSED, status=502), emulated=False)
    assert misses(dataclasses.replace(outcome(EDIT, edited((0, 0, 9, 9)))), emulated=False)


def test_the_mask_fits_its_picture() -> None:
    image, mask = samples.opened(edit_input()), samples.opened(edit_mask())

    assert image.size == mask.size == EDIT_PIXELS
    assert mask.getchannel("A").point([255] + [0] * 255).getbbox() == EDIT_BOX


def test_an_app_that_lets_everyone_in_is_named() -> None:
    async def open_to_all(request: object) -> PlainTextResponse:
        return PlainTextResponse("pictures for everyone")

    with serving(Starlette(routes=[Route("/v1/images/generations", open_to_all, methods=["POST"])])) as url:
        found = app_misses(url)

    assert [miss.partition(" gets ")[0] for miss in found] == [
        "the app's own route answers 404, expected 200",
        "a caller without a key",
        "another's model",
    ]
