"""The emulator behind a real server, where connections can break, and the official client against it."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator

import anyio
import httpx
import pytest
import uvicorn
from google import genai
from google.genai import errors, types
from PIL import Image
from starlette.applications import Starlette

from sfumato.emulator import EmulatorOptions, create_emulator

GENERATE = "/v1beta/models/gemini-3-pro-image:generateContent"
BODY = {"contents": [{"parts": [{"text": "A red bicycle"}]}]}


class Nap:
    """A sleep that lasts until the client leaves, and tells that it has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    async def __call__(self, seconds: float) -> None:
        self.begun.set()
        await anyio.sleep(seconds)


@pytest.fixture(scope="module")
def nap() -> Nap:
    return Nap()


@pytest.fixture(scope="module")
def app(nap: Nap) -> Starlette:
    return create_emulator(EmulatorOptions(key_faults={"tired-key": "429-day"}, sleep=nap))


@pytest.fixture(scope="module")
def base_url(app: Starlette) -> Iterator[str]:
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, headers={"x-goog-api-key": "test-key"}, timeout=60) as client:
        yield client


def settled(app: Starlette) -> int | None:
    """Wait until the latest call has ended; return its status."""
    deadline = time.monotonic() + 60
    call = app.state.journal.calls[-1]
    while call.status in (None, 200) and time.monotonic() < deadline:
        time.sleep(0.002)
    status: int | None = call.status
    return status


def test_a_whole_answer_is_chunked_like_google_s(http: httpx.Client) -> None:
    response = http.post(GENERATE, json=BODY)
    assert response.status_code == 200
    assert response.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in response.headers


@pytest.mark.parametrize("fault", ["truncated", "reset"])
def test_a_broken_answer_breaks_the_connection(http: httpx.Client, fault: str) -> None:
    with http.stream("POST", GENERATE, json=BODY, headers={"x-emulator-fault": fault}) as response:
        assert response.status_code == 200
        assert ("content-length" in response.headers) is (fault == "truncated")
        chunks = response.iter_bytes(1000)
        assert len(next(chunks)) == 1000
        with pytest.raises(httpx.RemoteProtocolError):
            list(chunks)
    assert http.get("/v1beta/models").status_code == 200


def test_a_stall_sends_half_and_then_nothing(http: httpx.Client, app: Starlette, nap: Nap) -> None:
    nap.begun.clear()
    with http.stream("POST", GENERATE, json=BODY, headers={"x-emulator-fault": "stall"}) as response:
        assert response.status_code == 200
        assert len(next(response.iter_bytes(1000))) == 1000
        assert nap.begun.wait(60)
    assert settled(app) == 499


def test_a_stall_before_headers_sends_nothing(base_url: str, app: Starlette, nap: Nap) -> None:
    nap.begun.clear()
    body = json.dumps(BODY).encode()
    head = f"POST {GENERATE} HTTP/1.1\r\nhost: x\r\nx-goog-api-key: k\r\nx-emulator-fault: stall-before\r\n"
    with socket.create_connection(("127.0.0.1", int(base_url.rpartition(":")[2]))) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert nap.begun.wait(60)
        connection.settimeout(0)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    assert settled(app) == 499


def test_a_client_that_leaves_in_the_middle_of_its_upload_is_recorded(base_url: str, app: Starlette) -> None:
    before = len(app.state.journal.calls)
    with socket.create_connection(("127.0.0.1", int(base_url.rpartition(":")[2]))) as connection:
        connection.sendall(f"POST {GENERATE} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{{".encode())
        deadline = time.monotonic() + 60
        while len(app.state.journal.calls) == before and time.monotonic() < deadline:
            time.sleep(0.002)
    assert settled(app) == 499


def test_a_body_over_the_limit_is_read_and_refused(http: httpx.Client) -> None:
    response = http.post(GENERATE, content=b" " * (21 * 1024 * 1024))
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "Request payload size exceeds the limit: 20971520 bytes."


def sdk(base_url: str, key: str = "test-key", version: str = "v1beta") -> genai.Client:
    return genai.Client(api_key=key, http_options={"base_url": base_url, "api_version": version})


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_the_official_client_draws_and_edits(base_url: str, version: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (90, 160), "red").save(out, "PNG")
    with sdk(base_url, version=version) as client:
        response = client.models.generate_content(
            model="gemini-3-pro-image",
            contents=types.Content(
                role="user",
                parts=[
                    types.Part.from_text(text="Make it blue"),
                    types.Part.from_bytes(data=out.getvalue(), mime_type="image/png"),
                ],
            ),
            config=types.GenerateContentConfig(
                response_modalities=["TEXT", "IMAGE"],
                seed=7,
                candidate_count=1,
                image_config=types.ImageConfig(image_size="2K"),
                thinking_config=types.ThinkingConfig(include_thoughts=True),
                safety_settings=[
                    types.SafetySetting(
                        category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
                        threshold=types.HarmBlockThreshold.OFF,
                    )
                ],
                tools=[types.Tool(google_search=types.GoogleSearch())],
            ),
        )
    assert response.parts
    final = response.parts[-1]
    assert final.inline_data
    assert final.inline_data.data
    with Image.open(io.BytesIO(final.inline_data.data)) as image:
        assert image.size == (1536, 2752)
    assert final.thought_signature
    assert response.candidates
    assert response.candidates[0].finish_reason is types.FinishReason.STOP
    assert response.usage_metadata
    assert response.usage_metadata.total_token_count


def test_the_official_client_streams(base_url: str) -> None:
    with sdk(base_url) as client:
        chunks = list(client.models.generate_content_stream(model="gemini-3-pro-image", contents="A red bicycle"))
    images = [part for chunk in chunks for part in chunk.parts or [] if part.inline_data]
    assert len(images) == 1
    assert chunks[-1].candidates
    assert chunks[-1].candidates[0].finish_reason is types.FinishReason.STOP


def test_the_official_client_lists_and_counts(base_url: str) -> None:
    with sdk(base_url) as client:
        assert "models/gemini-3-pro-image" in {model.name for model in client.models.list()}
        assert client.models.get(model="gemini-3-pro-image").input_token_limit == 65_536
        assert client.models.count_tokens(model="gemini-3-pro-image", contents="A red bicycle").total_tokens == 4


def test_the_official_client_reads_errors(base_url: str) -> None:
    with sdk(base_url, "tired-key") as client, pytest.raises(errors.ClientError) as quota:
        client.models.generate_content(model="gemini-3-pro-image", contents="x")
    assert (quota.value.code, quota.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert "PerDay" in str(quota.value.details)
    with sdk(base_url, "invalid-key") as client, pytest.raises(errors.ClientError) as key:
        client.models.generate_content(model="gemini-3-pro-image", contents="x")
    assert (key.value.code, key.value.message) == (400, "API key not valid. Please pass a valid API key.")
    with sdk(base_url) as client, pytest.raises(errors.ServerError) as overload:
        client.models.generate_content(model="gemini-3-pro-image", contents="x [[emulator:503]]")
    assert (overload.value.code, overload.value.status) == (503, "UNAVAILABLE")
