"""A scripted workload, each request with a trace of its own, and the tree that its spans make."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support import samples
from tests.support.otlp_receiver import ReceivedSpan, Receiver

MODEL = "gemini-3-pro-image"
OPERATION = f"generate_content {MODEL}"
LOOKUP, ATTEMPT, STORE = "gemini_image.cache.lookup", "gemini_image.attempt", "gemini_image.cache.store"
CALLED = (ATTEMPT, (("POST", ()),))
MADE = ((LOOKUP, ()), CALLED, (STORE, ()))
TIMEOUT_SECONDS = 10
VARIABLES = {
    "GEMINI_IMAGE_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "GEMINI_IMAGE_MAX_ATTEMPTS": "2",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}

Tree = tuple[str, tuple["Tree", ...]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request of the workload.

    Attributes:
        name: What is tried.
        prompt: With the emulator's triggers.
        status: HTTP status of the answer.
        beneath: What stands beneath the operation's span, in the order of names.
        told: Attributes of the operation's span.
        retries: How many retry events it has.
    """

    name: str
    prompt: str
    status: int = 200
    n: int = 1
    edits: bool = False
    beneath: tuple[Tree, ...] = MADE
    told: Mapping[str, Any]
    retries: int = 0


def failed(code: str) -> dict[str, Any]:
    """Return what the span of a failed request tells."""
    return {"error.type": code, "gemini_image.outcome": "error", "gemini_image.status_code": None}


_OK = {"gemini_image.outcome": None, "error.type": None}
CASES = (
    Case(name="generation", prompt="A traced fox", told={**_OK, "gemini_image.cache": "miss"}),
    Case(name="hit", prompt="A traced fox", beneath=((LOOKUP, ()),), told={**_OK, "gemini_image.cache": "hit"}),
    Case(name="edit", prompt="A traced hat", edits=True, told={**_OK, "gemini_image.operation": "edit"}),
    Case(
        name="partial",
        prompt="Two traced cats [[emulator:IMAGE_SAFETY;times=1]]",
        n=2,
        beneath=((LOOKUP, ()), (LOOKUP, ()), CALLED, CALLED, (STORE, ())),
        told={
            "gemini_image.outcome": "partial",
            "gen_ai.request.choice.count": 2,
            "gemini_image.failure_codes": ["IMG_SAFETY_BLOCKED"],
        },
    ),
    Case(
        name="blocked",
        prompt="A traced wolf [[emulator:IMAGE_SAFETY]]",
        status=400,
        beneath=((LOOKUP, ()), CALLED),
        told={**failed("IMG_SAFETY_BLOCKED"), "gemini_image.error.reason": "IMAGE_SAFETY"},
    ),
    Case(
        name="retried",
        prompt="A traced owl [[emulator:503;times=1]]",
        beneath=((LOOKUP, ()), CALLED, CALLED, (STORE, ())),
        told={**_OK, "gemini_image.retries": 1},
        retries=1,
    ),
    Case(
        name="timeout",
        prompt="A traced snail [[emulator:latency:60]]",
        status=504,
        beneath=((LOOKUP, ()), CALLED),
        told=failed("IMG_TIMEOUT"),
    ),
    # The last: the only account then rests.
    Case(
        name="quota",
        prompt="A traced crowd [[emulator:429-day]]",
        status=429,
        beneath=((LOOKUP, ()), CALLED),
        told={**failed("IMG_QUOTA_EXHAUSTED"), "gemini_image.error.reason": "per_day"},
    ),
)


def run_workload(url: str, key: str, *, door: str = "") -> dict[str, str]:
    """Send every case, one after the other; return the trace id of each."""
    traces: dict[str, str] = {}
    with httpx.Client(base_url=url, timeout=60, headers={"authorization": f"Bearer {key}"}) as client:
        for case in CASES:
            traces[case.name] = secrets.token_hex(16)
            headers = {"traceparent": f"00-{traces[case.name]}-{secrets.token_hex(8)}-01"}
            # The emulator counts such calls by their text.
            prompt = case.prompt.replace("times=1", f"times=1;id={secrets.token_hex(4)}")
            fields = {"model": MODEL, "prompt": f"{prompt} {door}".strip(), "n": case.n}
            if case.edits:
                files = {"image": ("in.png", samples.encoded(samples.noise(64, 48)), "image/png")}
                answer = client.post("/v1/images/edits", data=fields, files=files, headers=headers)
            else:
                answer = client.post("/v1/images/generations", json=fields, headers=headers)
            assert answer.status_code == case.status, (case.name, answer.text[:500])
    return traces


def await_traces(receiver: Receiver, traces: Iterable[str]) -> list[ReceivedSpan]:
    """Return what arrived once every trace has the span of its operation."""
    wanted = set(traces)

    def enough(spans: list[ReceivedSpan]) -> bool:
        return wanted <= {span.trace_id for span in spans if span.name == OPERATION}

    return receiver.await_spans(enough)


def tree(spans: Iterable[ReceivedSpan], root: ReceivedSpan) -> Tree:
    """Return the names beneath *root*, sorted."""
    spans = list(spans)
    beneath = [tree(spans, span) for span in spans if span.parent_id == root.span_id]
    return root.name, tuple(sorted(beneath, key=_order))


def check_case(case: Case, spans: list[ReceivedSpan]) -> ReceivedSpan:
    """Check what arrived of one trace; return the span of its operation."""
    (operation,) = [span for span in spans if span.name == OPERATION]
    assert operation.kind == "CLIENT", case.name
    assert tree(spans, operation) == (OPERATION, tuple(sorted(case.beneath, key=_order))), case.name
    for name, value in case.told.items():
        expected = case.status if name == "gemini_image.status_code" else value
        assert operation.attributes.get(name) == expected, (case.name, name, operation.attributes)
    assert operation.status == ("ERROR" if case.status >= 400 else "UNSET"), case.name
    assert len([event for event in operation.events if event[0] == "gemini_image.retry"]) == case.retries, case.name
    return operation


def await_metrics(receiver: Receiver) -> None:
    """Wait until the counts of the whole workload arrived."""
    receiver.await_points(lambda _: total(receiver, "gemini_image.requests") >= len(CASES))


def total(receiver: Receiver, name: str) -> float:
    """Add up the latest points of a counter."""
    latest = {str(sorted(point.attributes.items())): point.value for point in receiver.points if point.name == name}
    return sum(latest.values())


def check_metrics(receiver: Receiver) -> None:
    """Check the counts that arrived."""
    assert total(receiver, "gemini_image.requests") == len(CASES)
    assert {point.attributes["error.type"] for point in receiver.points if point.name == "gemini_image.errors"} == {
        "IMG_SAFETY_BLOCKED",
        "IMG_TIMEOUT",
        "IMG_QUOTA_EXHAUSTED",
    }
    assert total(receiver, "gemini_image.cost") > 0
    assert total(receiver, "gemini_image.cache.savings") > 0
    assert total(receiver, "gemini_image.retries") == 1
    assert total(receiver, "gemini_image.cache.lookups") == len(CASES) + 1
    assert {point.name for point in receiver.points} >= {
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
        "gemini_image.accounts",
        "gemini_image.account.requests",
        "gemini_image.cache.hit_rate",
        "gemini_image.cache.size",
        "gemini_image.cache.capacity",
        "gemini_image.cache.lookup.duration",
        "gemini_image.images",
        "gemini_image.requests.active",
    }


def _order(node: Tree) -> str:
    return repr(node)
