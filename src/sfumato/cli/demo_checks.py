"""Does an outcome hold what was promised? Every miss is a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sfumato.cli.demo_job import Outcome
from sfumato.cli.demo_pictures import EDIT_BOX, EDIT_PIXELS, edit_input
from sfumato.pictures.transcode import UnreadablePictureError, decode
from sfumato.wire.signature import Signature, read_signature

_REFUSED = ("IMG_SAFETY_BLOCKED", "moderation_blocked")
# Google's own pixels have moved by this much between versions; the emulator's are the table's.
_RATIO_SLACK = 0.03


def find_misses(outcome: Outcome, done: Mapping[str, Outcome], *, emulated: bool) -> list[str]:
    """List what *outcome* lacks.

    Args:
        outcome: What came for a step.
        done: Outcomes by the name of their step, for repetitions.
        emulated: Everything is foreseeable; with Google, pixels, refusals and partial results are taken as they come.
    """
    step = outcome.step
    if step.refused and (emulated or outcome.status != 200):
        return list(_refusal_misses(outcome))
    if outcome.status != 200:
        return [f"status {outcome.status}, expected 200: {str(outcome.told.get('message'))[:200]}"]
    return [
        *_count_misses(outcome, emulated=emulated),
        *_pixel_misses(outcome, exact=emulated or step.edit),
        *_cache_misses(outcome, emulated=emulated),
        *(_mask_misses(outcome, emulated=emulated) if step.edit else ()),
        *(_repetition_misses(outcome, done[step.repeats]) if step.repeats else ()),
    ]


def app_misses(base_url: str) -> list[str]:
    """List what the middleware does wrong with requests that are not its own, or not allowed."""
    import httpx  # noqa: PLC0415  # with the demo only

    misses = []
    path = "/v1/images/generations"
    with httpx.Client(base_url=base_url, trust_env=False, timeout=30) as client:
        if (own := client.get("/")).status_code != 200:
            misses.append(f"the app's own route answers {own.status_code}, expected 200")
        stranger = client.post(path, json={"model": "gemini-3-pro-image", "prompt": "Nothing"})
        if stranger.status_code != 401:
            misses.append(f"a caller without a key gets {stranger.status_code}, expected 401")
        other = client.post(path, json={"model": "dall-e-3", "prompt": "Nothing"})
        if other.status_code != 404 or "detail" not in other.text:
            misses.append(f"another's model gets {other.status_code} and not the app's own 404")
    return misses


def told_pixels(picture: bytes) -> str:
    """Return ``WxH`` as the picture's own header says."""
    signature = read_signature(picture)
    return "{}x{}".format(*signature.displayed_size) if isinstance(signature, Signature) else "unreadable"


def told_format(picture: bytes) -> str:
    """Return ``jpeg``, ``png``, … as the picture's own header says."""
    signature = read_signature(picture)
    return signature.mime_type.removeprefix("image/") if isinstance(signature, Signature) else "unreadable"


def _refusal_misses(outcome: Outcome) -> Iterator[str]:
    told = outcome.told
    if outcome.status != 400:
        yield f"status {outcome.status}, expected 400"
    # LiteLLM puts the HTTP status in place of OpenAI's code; there our code leads the message.
    if told.get("code") not in _REFUSED and not any(word in str(told.get("message")) for word in _REFUSED):
        yield f"the refusal does not name its code: {str(told)[:200]}"


def _count_misses(outcome: Outcome, *, emulated: bool) -> Iterator[str]:
    made = len(outcome.pictures)
    if made != outcome.step.n and (emulated or made == 0):
        yield f"{made} pictures, expected {outcome.step.n}"


def _pixel_misses(outcome: Outcome, *, exact: bool) -> Iterator[str]:
    width, height = outcome.step.pixels
    for picture in outcome.pictures:
        signature = read_signature(picture)
        if not isinstance(signature, Signature):
            yield "a picture is unreadable"
            continue
        w, h = signature.displayed_size
        if (w, h) != (width, height) if exact else abs(w / h * height / width - 1) > _RATIO_SLACK:
            yield f"{w}x{h} pixels, expected {width}x{height}"
    told = {"size": told_pixels, "output_format": told_format}
    for name, read in told.items():
        if outcome.told.get(name) and any(read(picture) != outcome.told[name] for picture in outcome.pictures):
            yield f"the answer says {name}={outcome.told[name]}, which the picture is not"


def _cache_misses(outcome: Outcome, *, emulated: bool) -> Iterator[str]:
    status = outcome.headers.get("x-gemini-image-cache")
    # With Google, the second half of the demo finds what the first has paid for.
    expected = ["hit"] if outcome.step.repeats else ["miss"] if emulated else ["miss", "hit"]
    if status not in expected:
        yield f"x-gemini-image-cache is {status}, expected {' or '.join(expected)}"
    cost = outcome.headers.get("x-gemini-image-cost")
    if cost is None:
        yield "there is no x-gemini-image-cost"
    elif (float(cost) == 0) != (status == "hit"):
        yield f"it cost {cost} USD with a cache status of {status}"


def _mask_misses(outcome: Outcome, *, emulated: bool) -> Iterator[str]:
    original = decode(edit_input())
    left, top, right, bottom = EDIT_BOX
    width, height = EDIT_PIXELS
    around = ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom))
    for picture in outcome.pictures:
        try:
            edited = decode(picture)
        except UnreadablePictureError:
            continue
        if edited.mode != original.mode or edited.size != original.size:
            yield f"the edit is {edited.mode} {edited.size}, the original {original.mode} {original.size}"
        elif any(edited.crop(box).tobytes() != original.crop(box).tobytes() for box in around):
            yield "pixels outside the mask are not the original's"
        elif emulated and edited.crop(EDIT_BOX).tobytes() == original.crop(EDIT_BOX).tobytes():
            yield "nothing was edited inside the mask"


def _repetition_misses(outcome: Outcome, first: Outcome) -> Iterator[str]:
    if outcome.pictures != first.pictures:
        yield "the repetition is another picture"
