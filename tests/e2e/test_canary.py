"""Marked secrets go through every door, with success and with every failure, and none of them comes out.

Not ours, and so not held to it: what LiteLLM's own loggers write at its level DEBUG, which is what a client sent. At
its usual level all of its output is searched, and the keys of our accounts are searched for in all of it always.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sfumato.emulator import EmulatorOptions, create_emulator
from tests.support import canary
from tests.support.canary import found_in
from tests.support.canary_doors import DOORS, Door, knock
from tests.support.otlp_receiver import ReceivedPoint, Receiver, receiving
from tests.support.servers import serving

_OURS = {canary.ACCOUNT_KEY, canary.ADMIN_KEY, canary.SALT}
_CODES = {
    *("IMG_INVALID_PARAMETER", "IMG_INVALID_IMAGE", "IMG_PAYLOAD_TOO_LARGE", "IMG_MODEL_NOT_FOUND"),
    *("IMG_SAFETY_BLOCKED", "IMG_RATE_LIMITED", "IMG_QUOTA_EXHAUSTED", "IMG_NO_IMAGE", "IMG_UPSTREAM_ERROR"),
    *("IMG_SERVICE_UNAVAILABLE", "IMG_UPSTREAM_AUTH", "IMG_NETWORK_ERROR", "IMG_TIMEOUT", "IMG_CONFIGURATION"),
}


class Outcome:
    """A door that was closed, and what came out of it."""

    def __init__(self, name: str, door: Door, receiver: Receiver, upstream: canary.HostileUpstream) -> None:
        self.name = name
        self.door = door
        self.receiver = receiver
        self.upstream = upstream


@pytest.fixture(scope="module", params=DOORS)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Everything was sent through the door, and the door is closed."""
    upstream = canary.HostileUpstream(create_emulator(EmulatorOptions()))
    directory = tmp_path_factory.mktemp("canary")
    with receiving() as receiver, serving(upstream) as url:
        with DOORS[request.param](url, receiver, directory) as door:
            knock(door)
            receiver.await_spans(lambda spans: any(span.name.startswith("generate_content") for span in spans))
            receiver.await_points(lambda points: _error_codes(points) >= _CODES)
        yield Outcome(request.param, door, receiver, upstream)


def test_the_markers_were_sent_and_everything_happened(outcome: Outcome) -> None:
    assert outcome.upstream.seen >= {canary.PROMPT, canary.STYLE, canary.ACCOUNT_KEY, canary.PICTURE}
    answers = outcome.door.answers
    assert all(answers[label].status_code == 200 for label in answers if label.startswith(("success", "repeated")))
    assert {answer.status_code for answer in answers.values()} >= {200, 400, 413, 429, 500, 502, 503, 504}
    assert answers["wrong key"].status_code in {401, 403}


def test_no_marker_is_logged(outcome: Outcome) -> None:
    requests = 0
    for file in outcome.door.logs:
        for line in file.read_text(errors="replace").splitlines():
            assert not found_in(line), (file.name, line[:600])
            requests += '"event":"image_request"' in line
    assert requests > 100
    for file in outcome.door.host_logs:
        for line in file.read_text(errors="replace").splitlines():
            assert not found_in(line) & _OURS, (file.name, line[:600])


def test_no_marker_is_in_a_span_or_metric(outcome: Outcome) -> None:
    assert {span.name for span in outcome.receiver.spans} >= {
        *("generate_content gemini-3-pro-image", "gemini_image.attempt", "gemini_image.cache.lookup"),
    }
    sent = [(span.name, span.attributes) for span in outcome.receiver.spans]
    sent += [(point.name, point.attributes) for point in outcome.receiver.points]
    for name, attributes in sent:
        marked = [key for key, value in attributes.items() if found_in(key + str(value))]
        assert not marked, (name, marked)
    # And wherever else a marker could stand: events, links, resources.
    for body in outcome.receiver.bodies:
        assert not found_in(body), found_in(body)


def test_no_marker_is_in_an_answer(outcome: Outcome) -> None:
    for label, answer in outcome.door.answers.items():
        assert not found_in(_without_the_wish(answer)), (label, answer.text[:600])
        headers = [(name, value) for name, value in answer.headers.multi_items() if found_in(name + value)]
        assert not headers, (label, headers)


def test_no_marker_is_in_the_cache(outcome: Outcome) -> None:
    files = [path for path in outcome.door.cache.rglob("*") if path.is_file()]
    assert any(path.stat().st_size > 1000 for path in files)
    for path in files:
        assert not found_in(str(path.relative_to(outcome.door.cache))), path
        assert not found_in(path.read_bytes()), path


def test_no_answered_picture_is_logged(outcome: Outcome) -> None:
    pictures = [answer.json()["data"] for answer in outcome.door.answers.values() if _is_picture(answer)]
    texts = {item.get("b64_json") or item["url"].partition(",")[2] for data in pictures for item in data}
    assert len(texts) > 3
    told = b"".join(file.read_bytes() for file in (*outcome.door.logs, *outcome.door.host_logs))
    told += b"".join(outcome.receiver.bodies)
    for text in texts:
        middle = len(text) // 8 * 4
        assert text[middle : middle + 60].encode() not in told
        assert base64.b64decode(text[middle : middle + 60]) not in told


def _error_codes(points: list[ReceivedPoint]) -> set[str]:
    return {point.attributes["error.type"] for point in points if point.name == "gemini_image.errors"}


def _is_picture(answer: httpx.Response) -> bool:
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return answer.status_code == 200 and is_json and "data" in answer.json()


def _without_the_wish(answer: httpx.Response) -> str:
    """Return an answer's text without the pictures and the prompt that was used, which are the client's."""
    try:
        body: Any = answer.json()
    except ValueError:
        return answer.text
    if isinstance(body, dict):
        for item in body.get("data") or ():
            for name in ("b64_json", "url", "revised_prompt"):
                item.pop(name, None)
    return json.dumps(body, ensure_ascii=False)


@pytest.mark.parametrize("marker", canary.MARKERS)
def test_the_search_finds_every_spelling(marker: str) -> None:
    for text in (marker, marker.upper(), f"x{marker.encode().hex()}x"):
        assert marker in found_in(f"before {text} after")
    for before in ("", "a", "ab", "abc"):
        assert marker in found_in(base64.b64encode(f"{before}{marker}after".encode()))
    assert marker not in found_in(marker[:-1])


def test_the_picture_carries_its_marker() -> None:
    assert found_in(canary.marked_picture()) == {canary.PICTURE}
