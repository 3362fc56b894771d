from __future__ import annotations

import contextlib
from typing import Any

import anyio
import httpx
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from sfumato.emulator import SWITCHES, EmulatorOptions, create_emulator
from sfumato.emulator.faults import (
    FINISH_REASONS,
    Fault,
    FaultBook,
    FaultSyntaxError,
    find_triggers,
    parse_faults,
    strip_triggers,
)
from sfumato.emulator.statuses import spell_delay

GENERATE = "/v1beta/models/gemini-3-pro-image:generateContent"
RPC = "type.googleapis.com/google.rpc."


def ask(
    app: Starlette, fault: str = "", *, text: str = "A red bicycle", key: str = "test-key", path: str = GENERATE
) -> httpx.Response:
    headers = {"x-goog-api-key": key, **({"x-emulator-fault": fault} if fault else {})}

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://emulator", headers=headers) as client:
            if path.endswith("models"):
                return await client.get(path)
            return await client.post(path, json={"contents": [{"parts": [{"text": text}]}]})

    return anyio.run(call)


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == response.status_code
    return error


def detail_of(response: httpx.Response, kind: str) -> dict[str, Any]:
    details: list[dict[str, Any]] = error_of(response)["details"]
    return next(detail for detail in details if detail["@type"] == RPC + kind)


def parts_of(response: httpx.Response) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = response.json()["candidates"][0]["content"]["parts"]
    return parts


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
def app(naps: list[float]) -> Starlette:
    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        await anyio.lowlevel.checkpoint()

    return create_emulator(EmulatorOptions(sleep=sleep))


@pytest.mark.parametrize("reason", FINISH_REASONS)
def test_a_finish_reason_ends_without_a_picture(app: Starlette, reason: str) -> None:
    response = ask(app, reason)
    assert response.status_code == 200
    candidate = response.json()["candidates"][0]
    assert (candidate["finishReason"], candidate["content"]) == (reason, {})
    usage = response.json()["usageMetadata"]
    assert usage["candidatesTokenCount"] == usage["thoughtsTokenCount"]
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["thoughtsTokenCount"]


def test_safety_carries_ratings_and_withheld_pictures_a_message(app: Starlette) -> None:
    assert ask(app, "safety").json()["candidates"][0]["safetyRatings"][0]["blocked"] is True
    message = ask(app, "image-other").json()["candidates"][0]["finishMessage"]
    assert message.startswith("Unable to show the generated image.")


def test_any_finish_reason_can_be_named(app: Starlette) -> None:
    assert ask(app, "finish:PUP_LIMITED_DISABLED").json()["candidates"][0]["finishReason"] == "PUP_LIMITED_DISABLED"


@pytest.mark.parametrize(("fault", "reason"), [("block", "PROHIBITED_CONTENT"), ("block:OTHER", "OTHER")])
def test_a_blocked_prompt_has_feedback_and_no_candidates(app: Starlette, fault: str, reason: str) -> None:
    document = ask(app, fault).json()
    assert document["promptFeedback"] == {"blockReason": reason}
    assert "candidates" not in document
    assert document["usageMetadata"]["totalTokenCount"] == document["usageMetadata"]["promptTokenCount"]


def test_answers_without_a_usable_picture(app: Starlette) -> None:
    assert ask(app, "empty-content").json()["candidates"][0] == {"content": {}, "finishReason": "STOP", "index": 0}
    assert ask(app, "null-parts").json()["candidates"][0]["content"]["parts"] is None
    assert "candidates" not in ask(app, "no-candidates").json()
    assert [set(part) for part in parts_of(ask(app, "text-only"))] == [{"text", "thoughtSignature"}]
    assert [part["thought"] for part in parts_of(ask(app, "thoughts-only"))] == [True]
    assert "data:image/jpeg;base64,/9j/" in parts_of(ask(app, "data-uri"))[0]["text"]


STATUSES = {
    "400": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "location": (400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
    "invalid-key": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "401": (401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "403": (403, "PERMISSION_DENIED", "Requests to this API"),
    "leaked-key": (403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key."),
    "404": (404, "NOT_FOUND", "models/gemini-3-pro-image is not found for API version v1beta"),
    "429-billing": (429, "RESOURCE_EXHAUSTED", "prepayment credits are depleted"),
    "429-capacity": (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    "500": (500, "INTERNAL", "An internal error has occurred."),
    "503": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "504": (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    "stream-error": (503, "UNAVAILABLE", "The model is overloaded."),
}


@pytest.mark.parametrize("fault", STATUSES)
def test_a_status_has_google_s_text(app: Starlette, fault: str) -> None:
    code, status, text = STATUSES[fault]
    error = error_of(ask(app, fault))
    assert (error["code"], error["status"]) == (code, status)
    assert text in error["message"]


def test_capacity_and_billing_have_no_details(app: Starlette) -> None:
    assert "details" not in error_of(ask(app, "429-capacity"))
    assert "details" not in error_of(ask(app, "429-billing"))


@pytest.mark.parametrize(
    ("fault", "quota_id", "delay", "spelled"),
    [
        ("429", "GenerateRequestsPerMinutePerProjectPerModel", "41s", "41s"),
        ("429:45.837906927s", "GenerateRequestsPerMinutePerProjectPerModel", "45.837906927s", "45.837906927s"),
        ("429-day", "GenerateRequestsPerDayPerProjectPerModel", "6776.4s", "1h52m56.4s"),
        ("429-day:60", "GenerateRequestsPerDayPerProjectPerModel", "60s", "1m0s"),
        ("429-free-tier", "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "30s", "30s"),
    ],
)
def test_a_quota_tells_its_id_and_delay(app: Starlette, fault: str, quota_id: str, delay: str, spelled: str) -> None:
    response = ask(app, fault)
    assert "retry-after" not in response.headers
    violation = detail_of(response, "QuotaFailure")["violations"][0]
    assert violation["quotaId"] == quota_id
    assert violation["quotaDimensions"]["model"] == "gemini-3-pro-image"
    assert (violation["quotaValue"] == "0") is (fault == "429-free-tier")
    assert detail_of(response, "RetryInfo")["retryDelay"] == delay
    assert error_of(response)["message"].endswith(f"Please retry in {spelled}.")


def test_overload_may_tell_a_delay(app: Starlette) -> None:
    assert "details" not in error_of(ask(app, "503"))
    assert detail_of(ask(app, "503:7s"), "RetryInfo")["retryDelay"] == "7s"


def test_pages_that_are_not_json(app: Starlette) -> None:
    for fault, status in (("html", 200), ("html:502", 502)):
        page = ask(app, fault)
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=UTF-8")
        assert page.text.startswith("<!DOCTYPE html>")
    garbage = ask(app, "garbage")
    assert garbage.headers["content-type"].startswith("application/json")
    with pytest.raises(UnicodeDecodeError):
        garbage.json()
    assert ask(app, "empty-body").content == b""


def test_extra_parts_come_before_the_picture(app: Starlette) -> None:
    thoughts = parts_of(ask(app, "thoughts:2"))
    assert [part.get("thought", False) for part in thoughts] == [True, True, True, False, False]
    drafts = ask(app, "drafts:3")
    images = [part for part in parts_of(drafts) if "inlineData" in part]
    assert len({part["inlineData"]["data"] for part in images}) == 4
    assert not any("thought" in part for part in images)
    assert drafts.json()["usageMetadata"]["candidatesTokensDetails"][0]["tokenCount"] == 4 * 1120


def test_formats_and_their_contradiction(app: Starlette) -> None:
    def told_and_true(fault: str) -> tuple[str, bool]:
        blob = parts_of(ask(app, fault))[-1]["inlineData"]
        return blob["mimeType"], pybase64.b64decode(blob["data"]).startswith(b"\x89PNG")

    assert told_and_true("png") == ("image/png", True)
    assert told_and_true("wrong-mime") == ("image/png", False)
    assert told_and_true("png,wrong-mime") == ("image/jpeg", True)


def test_other_pixels_than_the_table_s(app: Starlette) -> None:
    png = pybase64.b64decode(parts_of(ask(app, "png,pixels:1408x768"))[-1]["inlineData"]["data"])
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (1408, 768)


def test_a_grainy_picture_is_heavy(app: Starlette) -> None:
    assert len(ask(app, "grain").content) > 500_000


def test_usage_can_be_missing(app: Starlette) -> None:
    assert "usageMetadata" not in ask(app, "usage-missing").json()
    assert "usageMetadata" not in ask(app, "usage-missing,SAFETY").json()


def test_a_trigger_in_the_prompt_works_like_the_header_and_is_not_counted(app: Starlette) -> None:
    blocked = ask(app, text="A red bicycle [[emulator:503:9s]]")
    assert detail_of(blocked, "RetryInfo")["retryDelay"] == "9s"
    usage = ask(app, text="A red bicycle [[emulator:png]]").json()["usageMetadata"]
    assert usage["promptTokenCount"] == ask(app).json()["usageMetadata"]["promptTokenCount"]


def test_options_set_faults_for_all_calls_and_for_one_key() -> None:
    app = create_emulator(EmulatorOptions(faults="text-only", key_faults={"tired-key": "429-day"}))
    assert len(parts_of(ask(app))) == 1
    assert ask(app, key="tired-key").status_code == 200, "the first ending wins"
    app = create_emulator(EmulatorOptions(key_faults={"tired-key": "429-day;times=1", "other-key": "429-day;times=1"}))
    assert [ask(app, key="tired-key").status_code for _ in range(2)] == [429, 200]
    assert ask(app, key="other-key").status_code == 429
    assert ask(app, key="test-key").status_code == 200


def test_times_fails_the_first_calls_of_each_text(app: Starlette) -> None:
    assert [ask(app, "503;times=2").status_code for _ in range(3)] == [503, 503, 200]
    assert ask(app, "503;times=2;id=another").status_code == 503
    assert [ask(app, text="x [[emulator:500;times=1]]").status_code for _ in range(2)] == [500, 200]


def test_every_fails_each_kth_call(app: Starlette) -> None:
    reasons = [ask(app, text="x [[emulator:IMAGE_SAFETY;every=2]]").json()["candidates"][0] for _ in range(4)]
    assert [reason["finishReason"] for reason in reasons] == ["STOP", "IMAGE_SAFETY", "STOP", "IMAGE_SAFETY"]


def test_a_refused_request_is_not_counted(app: Starlette) -> None:
    assert ask(app, "503;times=1", key="invalid-key").status_code == 400
    assert [ask(app, "503;times=1").status_code for _ in range(2)] == [503, 200]


@pytest.mark.parametrize("fault", ["nonsense", "503:soon", "503;times=0", "503;sometimes=1", "png:1", "pixels:0x5"])
def test_a_fault_out_of_the_grammar_is_told(app: Starlette, fault: str) -> None:
    response = ask(app, fault)
    assert response.status_code == 400
    assert "emulator switch" in error_of(response)["message"]
    with pytest.raises(FaultSyntaxError, match="emulator switch"):
        create_emulator(EmulatorOptions(faults=fault))
    with pytest.raises(FaultSyntaxError):
        create_emulator(EmulatorOptions(key_faults={"k": fault}))


def test_key_and_server_faults_meet_every_route_and_quota_only_generation(app: Starlette) -> None:
    count = GENERATE.replace("generateContent", "countTokens")
    for path in ("/v1beta/models", count):
        assert ask(app, "leaked-key", path=path).status_code == 403
        assert ask(app, "429-day", path=path).status_code == 200


def test_latency_adds_up_and_waits_by_the_given_sleep(app: Starlette, naps: list[float]) -> None:
    response = ask(app, "latency:25.9s")
    assert sum(naps) == pytest.approx(25.9)
    assert int(response.headers["server-timing"].partition("dur=")[2]) >= 25_900
    ask(app, "latency:1,503")
    assert sum(naps) == pytest.approx(26.9)


def test_the_default_latency_holds_for_pictures_alone() -> None:
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    app = create_emulator(EmulatorOptions(latency_seconds=3, sleep=sleep))
    ask(app)
    ask(app, path="/v1beta/models")
    assert naps == [3]


def test_stalls_wait_by_the_given_sleep_and_then_go_on(app: Starlette, naps: list[float]) -> None:
    assert parts_of(ask(app, "stall:500"))
    assert parts_of(ask(app, "stall-before"))
    assert naps == [500, 3600]


def test_a_truncated_answer_announces_more_than_it_sends(app: Starlette) -> None:
    response = ask(app, "truncated")
    assert int(response.headers["content-length"]) // 2 == len(response.content)


def test_a_reset_breaks_in_the_middle(app: Starlette) -> None:
    with pytest.raises(ConnectionResetError):
        ask(app, "reset")


def test_a_call_cancelled_during_a_wait_is_recorded() -> None:
    async def call() -> list[int | None]:
        waiting = anyio.Event()

        async def sleep(seconds: float) -> None:
            waiting.set()
            await anyio.sleep(seconds)

        app = create_emulator(EmulatorOptions(latency_seconds=3600, sleep=sleep))
        headers = {"x-goog-api-key": "test-key"}
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://emulator", headers=headers)
        async with client, anyio.create_task_group() as group:

            async def generate() -> None:
                await client.post(GENERATE, json={"contents": [{"parts": [{"text": "x"}]}]})

            group.start_soon(generate)
            await waiting.wait()
            assert [call.status for call in app.state.journal.calls] == [None]
            group.cancel_scope.cancel()
        return [call.status for call in app.state.journal.calls]

    assert anyio.run(call) == [499]


def test_every_switch_is_described_and_its_default_parses() -> None:
    for name, switch in SWITCHES.items():
        assert switch.description
        assert parse_faults(name.upper()) == (Fault(name, switch.default, name.upper()),)


def test_names_ignore_case_and_dashes() -> None:
    names = [fault.name for fault in parse_faults("image_safety, Image-Safety ,IMAGE_SAFETY,USAGE_MISSING")]
    assert names == ["IMAGE_SAFETY", "IMAGE_SAFETY", "IMAGE_SAFETY", "usage-missing"]


def test_triggers_are_found_and_taken_out() -> None:
    prompt = "A cat [[emulator:503;times=2]] on a mat [[emulator:png,latency:1]]"
    assert find_triggers(prompt) == "503;times=2,png,latency:1"
    assert strip_triggers(prompt) == "A cat on a mat"


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 40))
def test_times_and_every_together(times: int, every: int, calls: int) -> None:
    book = FaultBook()
    faults = parse_faults(f"503;times={times};every={every}")
    fired = [bool(book.active(faults)) for _ in range(calls)]
    assert fired == [n % every == 0 and n // every <= times for n in range(1, calls + 1)]


@given(st.text(max_size=30))
def test_any_text_parses_or_is_a_syntax_error(text: str) -> None:
    with contextlib.suppress(FaultSyntaxError):
        assert all(fault.name in SWITCHES for fault in parse_faults(text))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.856559356, "856.559356ms"), (41, "41s"), (60, "1m0s"), (6776.4, "1h52m56.4s"), (3600, "1h0m0s")],
)
def test_delays_are_spelled_as_google_does(seconds: float, text: str) -> None:
    assert spell_delay(seconds) == text
