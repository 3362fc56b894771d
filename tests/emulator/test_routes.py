from __future__ import annotations

import hashlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pybase64
import pytest
from PIL import Image
from starlette.applications import Starlette

from sfumato.emulator import SWITCHES, EmulatorOptions, create_emulator
from sfumato.images.models import FAMILIES

MODEL = "/v1beta/models/gemini-3-pro-image"
BODY: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "A red bicycle"}]}]}
THINKING = {**BODY, "generationConfig": {"thinkingConfig": {"includeThoughts": True}}}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def app() -> Starlette:
    return create_emulator(EmulatorOptions(clock=lambda: 1_795_000_000.0, max_journal_calls=3))


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-goog-api-key": "test-key-1234"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator", headers=headers) as client:
        yield client


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    blocks = response.text.split("\r\n\r\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


async def test_a_stream_gives_thoughts_then_the_whole_picture_then_the_reason(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{MODEL}:streamGenerateContent?alt=sse", json=THINKING)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response)
    parts = [event["candidates"][0]["content"]["parts"] for event in events]
    assert [len(part) for part in parts] == [1] * 5
    assert [part[0].get("thought", False) for part in parts] == [True, True, False, False, False]
    data = pybase64.b64decode(parts[3][0]["inlineData"]["data"])
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (1024, 1024)
    assert ["finishReason" in event["candidates"][0] for event in events] == [False] * 4 + [True]
    assert "candidatesTokenCount" not in events[0]["usageMetadata"]
    assert events[-1]["usageMetadata"]["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": 1120}]
    assert len({event["responseId"] for event in events}) == 1


async def test_without_alt_the_stream_is_a_json_array(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{MODEL}:streamGenerateContent", json=BODY)
    assert response.headers["content-type"] == "application/json; charset=UTF-8"
    assert [bool(event["candidates"]) for event in response.json()] == [True] * 3


async def test_a_refusal_streams_as_one_event(client: httpx.AsyncClient) -> None:
    url = f"{MODEL}:streamGenerateContent?alt=sse"
    response = await client.post(url, json=BODY, headers={"x-emulator-fault": "IMAGE_SAFETY"})
    (event,) = events_of(response)
    assert event["candidates"][0]["finishReason"] == "IMAGE_SAFETY"


async def test_an_error_before_a_stream_is_an_object_or_an_array(client: httpx.AsyncClient) -> None:
    fault = {"x-emulator-fault": "503"}
    sse = await client.post(f"{MODEL}:streamGenerateContent?alt=sse", json=BODY, headers=fault)
    assert sse.json()["error"]["code"] == sse.status_code == 503
    array = await client.post(f"{MODEL}:streamGenerateContent", json=BODY, headers=fault)
    assert array.json()[0]["error"]["code"] == array.status_code == 503


async def test_an_error_can_come_within_a_stream(client: httpx.AsyncClient) -> None:
    url = f"{MODEL}:streamGenerateContent?alt=sse"
    response = await client.post(url, json=BODY, headers={"x-emulator-fault": "stream-error"})
    assert response.status_code == 200
    assert [set(event) & {"error", "candidates"} for event in events_of(response)] == [{"candidates"}, {"error"}]


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_models_are_listed_in_pages(client: httpx.AsyncClient, version: str) -> None:
    everything = (await client.get(f"/{version}/models")).json()
    names = [model["name"] for model in everything["models"]]
    assert names == [f"models/{family.name}" for family in FAMILIES]
    assert "nextPageToken" not in everything
    first = (await client.get(f"/{version}/models?pageSize=3")).json()
    rest = (await client.get(f"/{version}/models?pageSize=3&pageToken={first['nextPageToken']}")).json()
    assert [model["name"] for model in first["models"] + rest["models"]] == names
    assert (await client.get(f"/{version}/models?pageSize=x")).status_code == 400
    assert (await client.get(f"/{version}/models?pageToken=x")).status_code == 400


async def test_one_model_is_described(client: httpx.AsyncClient) -> None:
    model = (await client.get(MODEL)).json()
    assert model["name"] == "models/gemini-3-pro-image"
    assert model["inputTokenLimit"] == 65_536
    assert model["supportedGenerationMethods"] == ["generateContent", "countTokens"]
    missing = await client.get("/v1/models/foo")
    assert missing.status_code == 404
    assert missing.json()["error"]["status"] == "NOT_FOUND"


async def test_tokens_are_counted_for_turns_and_for_a_whole_request(client: httpx.AsyncClient) -> None:
    turns = await client.post(f"{MODEL}:countTokens", json=BODY)
    assert turns.json() == {"totalTokens": 4, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}]}
    whole = {"generateContentRequest": {"model": "models/gemini-3-pro-image", **BODY}}
    assert (await client.post(f"{MODEL}:countTokens", json=whole)).json() == turns.json()
    assert (await client.post(f"{MODEL}:countTokens", json={**BODY, "generationConfig": {}})).status_code == 400


async def test_the_journal_tells_a_call_without_its_key_and_pictures(client: httpx.AsyncClient) -> None:
    out = io.BytesIO()
    Image.new("RGB", (6, 4)).save(out, "PNG")
    data = out.getvalue()
    blob = {"mime_type": "image/png", "data": pybase64.b64encode(data).decode()}
    body = {"contents": [{"parts": [{"text": "x"}, {"inline_data": blob}]}]}
    await client.post(f"{MODEL}:generateContent", json=body, headers={"x-emulator-fault": "png"})
    response = await client.get("/emulator/journal")
    assert "test-key-1234" not in response.text
    (entry,) = response.json()
    told = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "width": 6, "height": 4}
    picture = {"mime_type": "image/png", "data": told}
    assert entry["body"] == {"contents": [{"parts": [{"text": "x"}, {"inline_data": picture}]}]}
    assert entry["cost_usd"] == pytest.approx(0.14, abs=0.02)
    assert entry["headers"]["x-goog-api-key"] == "***"
    assert {name: entry[name] for name in ("time", "method", "path", "model", "key_hint", "status", "fault")} == {
        "time": 1_795_000_000.0,
        "method": "POST",
        "path": f"{MODEL}:generateContent",
        "model": "gemini-3-pro-image",
        "key_hint": "1234",
        "status": 200,
        "fault": "png",
    }
    assert entry["in_flight"] == 1


async def test_the_journal_also_has_what_was_refused(client: httpx.AsyncClient) -> None:
    blob = {"mimeType": "image/png", "data": "data:image/png;base64,AAAA"}
    await client.post(f"{MODEL}:generateContent", json={"contents": [{"parts": [{"inlineData": blob}]}]})
    await client.post(f"{MODEL}:generateContent", json=BODY, headers={"x-emulator-fault": "429-day"})
    await client.get("/v1beta/models/foo")
    entries = (await client.get("/emulator/journal")).json()
    assert [(entry["status"], entry["cost_usd"]) for entry in entries] == [(400, 0), (429, 0), (404, 0)]
    assert entries[0]["body"]["contents"][0]["parts"][0]["inlineData"]["data"] == {"undecodable": 26}


async def test_the_journal_is_bounded_and_clears_with_the_counts(client: httpx.AsyncClient, app: Starlette) -> None:
    fault = {"x-emulator-fault": "503;times=1"}
    statuses = [(await client.post(f"{MODEL}:countTokens", json=BODY, headers=fault)).status_code for _ in range(4)]
    assert statuses == [503, 200, 200, 200]
    assert [call.status for call in app.state.journal.calls] == [200] * 3
    assert (await client.delete("/emulator/journal")).status_code == 204
    assert app.state.journal.calls == ()
    assert (await client.post(f"{MODEL}:countTokens", json=BODY, headers=fault)).status_code == 503


async def test_the_switches_are_listed(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/emulator/switches")).json()
    assert listed == {name: switch.description for name, switch in SWITCHES.items()}
