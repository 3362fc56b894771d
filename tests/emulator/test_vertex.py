from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pybase64
import pytest
from google import genai
from google.genai import types
from google.genai.errors import ClientError
from google.oauth2.credentials import Credentials
from PIL import Image
from starlette.applications import Starlette

from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.errors import (
    ImageError,
    ModelNotFoundError,
    QuotaExhaustedError,
    RateLimitedError,
    ServiceUnavailableError,
    UpstreamAuthError,
)
from sfumato.wire.gemini_errors import parse_error
from tests.support.servers import serving

RESOURCE = "projects/demo/locations/us-central1/publishers/google/models/gemini-3-pro-image"
URL = f"/v1/{RESOURCE}:generateContent"
PACKAGE = "type.googleapis.com/google.cloud.aiplatform.v1."
TOKEN = {"authorization": "Bearer token-1234"}
BODY: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "A red bicycle"}]}]}
CLASSIC = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
IMAGE = ("IMAGE_HATE", "IMAGE_DANGEROUS_CONTENT", "IMAGE_HARASSMENT", "IMAGE_SEXUALLY_EXPLICIT")
WIDE: dict[str, Any] = {
    **BODY,
    "safetySettings": [
        {"category": f"HARM_CATEGORY_{name}", "threshold": "OFF", "method": "SEVERITY"} for name in CLASSIC + IMAGE
    ],
    "generationConfig": {
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {
            "aspectRatio": "16:9",
            "imageSize": "2K",
            "personGeneration": "ALLOW_ADULT",
            "prominentPeople": "BLOCK_PROMINENT_PEOPLE",
            "imageOutputOptions": {"mimeType": "image/jpeg", "compressionQuality": 60},
        },
    },
    "labels": {"team": "x"},
}

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> Starlette:
    return create_emulator(EmulatorOptions(clock=lambda: 1_795_000_000.0))


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator", headers=TOKEN) as client:
        yield client


def picture_of(response: httpx.Response) -> tuple[str, bytes]:
    assert response.status_code == 200, response.text
    (blob,) = [p["inlineData"] for p in response.json()["candidates"][0]["content"]["parts"] if "inlineData" in p]
    return blob["mimeType"], pybase64.b64decode(blob["data"])


def with_output(**options: Any) -> dict[str, Any]:
    return {**BODY, "generationConfig": {"imageConfig": {"imageOutputOptions": options}}}


async def test_vertex_takes_what_it_alone_knows(client: httpx.AsyncClient, app: Starlette) -> None:
    response = await client.post(URL, json=WIDE)
    mime_type, data = picture_of(response)
    assert mime_type == "image/jpeg"
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (2752, 1536))
    assert response.json()["usageMetadata"]["trafficType"] == "ON_DEMAND"
    (call,) = app.state.journal.calls
    assert (call.backend, call.project, call.location) == ("vertex", "demo", "us-central1")
    assert (call.model, call.key_hint, call.status) == ("gemini-3-pro-image", "1234", 200)
    assert call.headers["authorization"] == "***"
    assert call.body == WIDE


async def test_the_gemini_api_still_refuses_it_all(client: httpx.AsyncClient, app: Starlette) -> None:
    del client.headers["authorization"]
    key = {"x-goog-api-key": "test-key"}
    response = await client.post("/v1beta/models/gemini-3-pro-image:generateContent", json=WIDE, headers=key)
    assert response.status_code == 400
    names = [row.split(chr(34))[1] for row in response.json()["error"]["message"].splitlines()]
    assert set(names) == {"labels", "method", "personGeneration", "prominentPeople", "imageOutputOptions"}
    (call,) = app.state.journal.calls
    assert (call.backend, call.project, call.location) == ("gemini", None, None)


@pytest.mark.parametrize(
    ("options", "form"),
    [({}, "PNG"), ({"mimeType": "image/png", "compressionQuality": 5}, "PNG"), ({"mimeType": "image/jpeg"}, "JPEG")],
)
async def test_the_picture_is_of_the_kind_asked_for(
    client: httpx.AsyncClient, options: dict[str, Any], form: str
) -> None:
    mime_type, data = picture_of(await client.post(URL, json=with_output(**options)))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == form
    assert mime_type == f"image/{form.lower()}"


async def test_compression_shrinks_the_picture(client: httpx.AsyncClient) -> None:
    sizes = []
    for quality in (10, 90):
        body = with_output(mimeType="image/jpeg", compressionQuality=quality)
        body["generationConfig"]["seed"] = 1
        sizes.append(len(picture_of(await client.post(URL, json=body))[1]))
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (with_output(mimeType="image/webp"), "Request contains an invalid argument."),
        (with_output(compressionQuality=101), "Request contains an invalid argument."),
        (with_output(quality=5), "Unknown name \"quality\" at 'generation_config.image_config.image_output_options'"),
        ({**BODY, "store": True}, 'Unknown name "store": Cannot find field.'),
        (
            {**BODY, "generationConfig": {"imageConfig": {"outputMimeType": "image/png"}}},
            "Unknown name \"outputMimeType\" at 'generation_config.image_config'",
        ),
        (
            {**BODY, "generationConfig": {"imageConfig": {"personGeneration": "SOME"}}},
            f"({PACKAGE}ImageConfig.PersonGeneration)",
        ),
        ({**BODY, "generationConfig": {"imageConfig": {"imageSize": "8K"}}}, "Unsupported image_size '8K'"),
        ({**BODY, "generationConfig": {"candidateCount": 2}}, "Multiple candidates"),
        (
            {**BODY, "safetySettings": [{"category": "HARM_CATEGORY_IMAGE_HATE", "threshold": "HIGH"}]},
            f"({PACKAGE}SafetySetting.HarmBlockThreshold)",
        ),
        (
            {**BODY, "safetySettings": [{"category": "HARM_CATEGORY_IMAGE_HATE", "method": "BOTH"}]},
            f"({PACKAGE}SafetySetting.HarmBlockMethod)",
        ),
        ({**BODY, "safetySettings": [{"threshold": "OFF"}]}, "Request contains an invalid argument."),
    ],
)
async def test_vertex_is_strict_too(client: httpx.AsyncClient, body: dict[str, Any], message: str) -> None:
    response = await client.post(URL, json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "query", "message", "reason"),
    [
        ({}, "", "Request is missing required authentication credential.", "CREDENTIALS_MISSING"),
        ({"x-goog-api-key": "k"}, "", "API keys are not supported by this API.", "CREDENTIALS_MISSING"),
        ({"x-goog-api-key": "k", **TOKEN}, "", "API keys are not supported by this API.", "CREDENTIALS_MISSING"),
        (TOKEN, "?key=k", "API keys are not supported by this API.", "CREDENTIALS_MISSING"),
        ({"authorization": "Bearer invalid"}, "", "invalid authentication", "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
        ({"authorization": "Bearer "}, "", "invalid authentication", "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
        ({"authorization": "Basic abc"}, "", "invalid authentication", "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    ],
)
async def test_vertex_wants_a_token(
    app: Starlette, headers: dict[str, str], query: str, message: str, reason: str
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://emulator") as client:
        response = await client.post(URL + query, json=BODY, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["status"]) == (401, "UNAUTHENTICATED")
    assert message in error["message"]
    assert error["details"][0]["reason"] == reason
    parsed = parse_error(401, response.content)
    assert isinstance(parsed, UpstreamAuthError)
    assert parsed.reason == reason


async def test_tokens_can_be_listed_and_have_faults_of_their_own() -> None:
    app = create_emulator(EmulatorOptions(api_keys=("good", "slow"), key_faults={"slow": "429-capacity"}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://emulator") as client:
        statuses = [
            (await client.post(URL, json=BODY, headers={"authorization": f"Bearer {token}"})).status_code
            for token in ("good", "slow", "other")
        ]
    assert statuses == [200, 429, 401]


ERRORS: list[tuple[str, int, type[ImageError], str | None]] = [
    ("429", 429, RateLimitedError, "per_minute"),
    ("429-capacity", 429, RateLimitedError, "shared_capacity"),
    ("429-day", 429, QuotaExhaustedError, "per_day"),
    ("403", 403, UpstreamAuthError, "IAM_PERMISSION_DENIED"),
    ("invalid-key", 401, UpstreamAuthError, "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    ("404", 404, ModelNotFoundError, "unavailable"),
    ("503", 503, ServiceUnavailableError, "UNAVAILABLE"),
]


@pytest.mark.parametrize(("fault", "status", "kind", "reason"), ERRORS)
async def test_vertex_s_errors_are_understood(
    client: httpx.AsyncClient, fault: str, status: int, kind: type[ImageError], reason: str | None
) -> None:
    body = {"contents": [{"parts": [{"text": f"x [[emulator:{fault}]]"}]}]}
    response = await client.post(URL, json=body)
    assert response.status_code == status
    assert "API key" not in response.text
    error = parse_error(status, response.content)
    assert (type(error), error.reason) == (kind, reason)


@pytest.mark.parametrize("model", ["gemini-9", "gemini-3-pro-image-preview"])
async def test_a_missing_publisher_model(client: httpx.AsyncClient, model: str) -> None:
    resource = RESOURCE.replace("gemini-3-pro-image", model)
    response = await client.post(f"/v1/{resource}:generateContent", json=BODY)
    assert response.status_code == 404
    assert f"Publisher Model `{resource}` was not found" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", [f"/v1beta/{RESOURCE}:generateContent", f"/v1/{RESOURCE}", f"/v2/{RESOURCE}:x"])
async def test_other_addresses_are_no_vertex(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, json=BODY)).status_code == 404


async def test_vertex_streams(client: httpx.AsyncClient) -> None:
    response = await client.post(URL.replace("generateContent", "streamGenerateContent?alt=sse"), json=BODY)
    blocks = [json.loads(block.removeprefix("data: ")) for block in response.text.strip().split("\r\n\r\n")]
    assert blocks[-1]["candidates"][0]["finishReason"] == "STOP"


# --- Google's own client ---


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with serving(create_emulator()) as url:
        yield url


def sdk(base_url: str, version: str, token: str = "test-token", location: str = "global") -> genai.Client:
    return genai.Client(
        vertexai=True,
        project="demo",
        location=location,
        credentials=Credentials(token=token),  # type: ignore[no-untyped-call]  # google-auth is typed in part
        http_options={"base_url": base_url, "api_version": version},
    )


@pytest.mark.parametrize(("version", "location"), [("v1", "global"), ("v1beta1", "europe-west4")])
def test_the_official_client_asks_vertex(base_url: str, version: str, location: str) -> None:
    config = types.GenerateContentConfig(
        response_modalities=["TEXT", "IMAGE"],
        image_config=types.ImageConfig(
            aspect_ratio="21:9",
            person_generation="ALLOW_ALL",
            prominent_people=types.ProminentPeople.ALLOW_PROMINENT_PEOPLE,
            output_mime_type="image/jpeg",
            output_compression_quality=70,
        ),
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_IMAGE_HATE,
                threshold=types.HarmBlockThreshold.BLOCK_ONLY_HIGH,
                method=types.HarmBlockMethod.PROBABILITY,
            )
        ],
    )
    with sdk(base_url, version, location=location) as client:
        response = client.models.generate_content(model="gemini-3-pro-image", contents="A red bicycle", config=config)
    final = (response.parts or [])[-1].inline_data
    assert final
    assert final.data
    with Image.open(io.BytesIO(final.data)) as image:
        assert (image.format, image.size) == ("JPEG", (1584, 672))
    assert response.usage_metadata
    assert response.usage_metadata.traffic_type is types.TrafficType.ON_DEMAND
    call = httpx.get(f"{base_url}/emulator/journal").json()[-1]
    assert (call["backend"], call["project"], call["location"]) == ("vertex", "demo", location)


def test_the_official_client_understands_the_errors(base_url: str) -> None:
    with sdk(base_url, "v1", token="invalid") as client, pytest.raises(ClientError) as refused:
        client.models.generate_content(model="gemini-3-pro-image", contents="x")
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
    with sdk(base_url, "v1") as client, pytest.raises(ClientError) as missing:
        client.models.generate_content(model="gemini-9", contents="x")
    assert missing.value.code == 404
