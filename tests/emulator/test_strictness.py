from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import anyio
import httpx
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.applications import Starlette

from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.emulator.decoder import read_message
from sfumato.emulator.schema import GenerateContentRequest
from sfumato.emulator.statuses import GoogleError

PRO = "gemini-3-pro-image"
FLASH = "gemini-3.1-flash-image"
FLASH_2_5 = "gemini-2.5-flash-image"
CANNOT_FIND = "Invalid JSON payload received. Unknown name"
CATCH_ALL = "Request contains an invalid argument."
NOT_VALID = "Provided image is not valid."


def post(
    app: Starlette,
    body: Any,
    *,
    model: str = PRO,
    path: str = "",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as client:
            sent = {"x-goog-api-key": "test-key"} if headers is None else headers
            return await client.post(path or f"/v1beta/models/{model}:generateContent", content=content, headers=sent)

    return anyio.run(call)


def encoded(form: str = "PNG", size: tuple[int, int] = (8, 8)) -> str:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, form)
    return pybase64.b64encode(out.getvalue()).decode()


def blob(mime: str = "image/png", data: str | None = None) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime, "data": encoded() if data is None else data}}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": "A red bicycle"}, *parts]}]}


def with_config(**config: Any) -> dict[str, Any]:
    return {**user(), "generationConfig": config}


def with_image_config(**config: Any) -> dict[str, Any]:
    return with_config(imageConfig=config)


def with_safety(category: str, threshold: str = "BLOCK_NONE") -> dict[str, Any]:
    return {**user(), "safetySettings": [{"category": category, "threshold": threshold}]}


def replay(**part: Any) -> dict[str, Any]:
    turns = [*user()["contents"], {"role": "model", "parts": [{"text": "Here."}, {**blob(), **part}]}]
    return {"contents": [*turns, *user()["contents"]]}


@pytest.fixture(scope="module")
def app() -> Starlette:
    return create_emulator()


def assert_refused(response: httpx.Response, message: str, code: int = 400, status: str = "INVALID_ARGUMENT") -> None:
    assert response.status_code == code, response.text
    assert response.headers["content-type"] == "application/json; charset=UTF-8"
    error = response.json()["error"]
    assert (error["code"], error["status"]) == (code, status)
    assert message in error["message"]


UNKNOWN = [
    ({**user(), "labels": {}}, "labels", ""),
    ({**user(), "modelArmorConfig": {}}, "modelArmorConfig", ""),
    (with_config(foo=1), "foo", "generation_config"),
    (with_config(responseFormat={"image": {}}), "responseFormat", "generation_config"),
    (with_config(thinkingConfig={"foo": 1}), "foo", "generation_config.thinking_config"),
    (with_image_config(personGeneration="ALLOW_ALL"), "personGeneration", "generation_config.image_config"),
    (with_image_config(prominentPeople="X"), "prominentPeople", "generation_config.image_config"),
    (with_image_config(imageOutputOptions={}), "imageOutputOptions", "generation_config.image_config"),
    (with_image_config(outputMimeType="image/png"), "outputMimeType", "generation_config.image_config"),
    ({"contents": [{"parts": [{"text": "x"}], "name": "x"}]}, "name", "contents[0]"),
    ({"contents": [{"parts": [{"text": "x"}, {"textt": "x"}]}]}, "textt", "contents[0].parts[1]"),
    (user({"inlineData": {"mime": "image/png"}}), "mime", "contents[0].parts[1].inline_data"),
    (
        {**user(), "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "method": "SEVERITY"}]},
        "method",
        "safety_settings[0]",
    ),
    ({**user(), "tools": [{"googleSearch": {"excludeDomains": []}}]}, "excludeDomains", "tools[0].google_search"),
    ({**user(), "systemInstruction": {"text": "x"}}, "text", "system_instruction"),
]


@pytest.mark.parametrize(("body", "name", "path"), UNKNOWN, ids=[name for _, name, _ in UNKNOWN])
def test_an_unknown_field_is_refused_at_every_level(app: Starlette, body: Any, name: str, path: str) -> None:
    response = post(app, body)
    place = f" at '{path}'" if path else ""
    assert_refused(response, f'{CANNOT_FIND} "{name}"{place}: Cannot find field.')
    detail = response.json()["error"]["details"][0]
    assert detail["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert detail["fieldViolations"][0].get("field", "") == path


def test_every_violation_is_reported_at_once(app: Starlette) -> None:
    error = post(app, {**with_config(foo=1, bar=2), "baz": 3}).json()["error"]
    assert len(error["details"][0]["fieldViolations"]) == 3
    assert error["message"].count("Cannot find field.") == 3


PACKAGE = "type.googleapis.com/google.ai.generativelanguage.v1beta."
REFUSED = {
    "contents missing": ({}, "* GenerateContentRequest.contents: contents is not specified"),
    "contents empty": ({"contents": []}, "* GenerateContentRequest.contents: contents is not specified"),
    "parts empty": ({"contents": [{"parts": []}]}, "contents.parts must not be empty."),
    "part empty": ({"contents": [{"parts": [{}]}]}, "required oneof field 'data' must have one initialized field"),
    "role": ({"contents": [{"role": "system", "parts": [{"text": "x"}]}]}, "Please use a valid role: user, model."),
    "oneof": (user({"text": "x", **blob()}), "oneof field 'data' is already set. Cannot set 'inlineData'"),
    "root": ([], "Root element must be a message."),
    "malformed": (b'{"contents": [}', "Invalid JSON payload received."),
    "cut short": (b'{"contents": [', "Invalid JSON payload received. Unexpected end of string."),
    "not utf-8": (b'{"a": "\xff"}', "Encountered non UTF-8 code points."),
    "too deep": (b"[" * 200_000, "Message too deep."),
    "string": (user({"text": 5}), "Invalid value at 'contents[0].parts[1].text' (TYPE_STRING), 5"),
    "int32": (with_config(seed="abc"), "Invalid value at 'generation_config.seed' (TYPE_INT32), \"abc\""),
    "int32 range": (with_config(seed=2**31), "Invalid value at 'generation_config.seed' (TYPE_INT32), 2147483648"),
    "float": (with_config(temperature="hot"), "(TYPE_FLOAT)"),
    "bool": ({**user(), "store": "yes"}, "Invalid value at 'store' (TYPE_BOOL), \"yes\""),
    "list": ({"contents": [{"role": ["user"], "parts": [{"text": "x"}]}]}, "Proto field is not repeating"),
    "message": (
        {**user(), "generationConfig": "x"},
        f"Invalid value at 'generation_config' ({PACKAGE}GenerationConfig)",
    ),
    "enum": (with_config(responseModalities=["PICTURE"]), f'({PACKAGE}GenerationConfig.Modality), "PICTURE"'),
    "service tier": ({**user(), "serviceTier": "FLEX"}, f"Invalid value at 'service_tier' ({PACKAGE}ServiceTier)"),
    "candidates": (with_config(candidateCount=2), "Multiple candidates is not enabled for this model"),
    "media resolution": (
        with_config(mediaResolution="MEDIA_RESOLUTION_HIGH"),
        "Media resolution is not enabled for this model",
    ),
    "temperature": (with_config(temperature=3), "temperature must be in the range [0.0, 2.0]."),
    "json mode": (with_config(responseMimeType="application/json"), "JSON mode is not enabled for this model"),
    "audio": (with_config(responseModalities=["AUDIO"]), "response modalities (AUDIO) is not supported by the model"),
    "functions": (
        {**user(), "tools": [{"functionDeclarations": [{"name": "f"}]}]},
        "Function calling is not enabled for this model",
    ),
    "code execution": ({**user(), "tools": [{"codeExecution": {}}]}, "Code execution is not enabled for this model"),
    "top p": (with_config(topP=2), "top_p must be in the range [0.0, 1.0]."),
    "civic integrity off": (
        with_safety("HARM_CATEGORY_CIVIC_INTEGRITY", "OFF"),
        "HARM_CATEGORY_CIVIC_INTEGRITY threshold cannot be 5",
    ),
    "part resolution": (
        user({**blob(), "mediaResolution": {"level": "MEDIA_RESOLUTION_HIGH"}}),
        "Media resolution is not enabled for this model",
    ),
    "no body": (b"", "* GenerateContentRequest.contents: contents is not specified"),
    "lower-case size": (
        with_image_config(imageSize="4k"),
        "Unsupported image_size '4k'. Supported values are: 1K, 2K, 4K, 512, 512P, 512PX.",
    ),
    "unknown size": (with_image_config(imageSize="8K"), "Unsupported image_size '8K'."),
    "another model's size": (
        with_image_config(imageSize="512"),
        "Unsupported image_size '512'. Supported values are: 1K, 2K, 4K.",
    ),
    "unknown ratio": (
        with_image_config(aspectRatio="16x9"),
        (
            "aspect_ratio must be one of '1:1', '1:4', '1:8', '2:3', '3:2', '3:4', '4:1', '4:3', '4:5', '5:4', '8:1', "
            "'9:16', '16:9', or '21:9'"
        ),
    ),
    "another model's ratio": (
        with_image_config(aspectRatio="1:8"),
        "aspect_ratio must be one of '1:1', '2:3', '3:2', '3:4', '4:3', '4:5', '5:4', '9:16', '16:9', or '21:9'",
    ),
    "vertex category": (
        with_safety("HARM_CATEGORY_IMAGE_HATE"),
        (
            "* GenerateContentRequest.safety_settings[0]: element predicate failed: $.category in "
            "(HARM_CATEGORY_HATE_SPEECH, HARM_CATEGORY_SEXUALLY_EXPLICIT, HARM_CATEGORY_DANGEROUS_CONTENT, "
            "HARM_CATEGORY_HARASSMENT, HARM_CATEGORY_CIVIC_INTEGRITY, HARM_CATEGORY_JAILBREAK)"
        ),
    ),
    "unknown category": (with_safety("HARASSMENT"), f'({PACKAGE}HarmCategory), "HARASSMENT"'),
    "threshold": (
        with_safety("HARM_CATEGORY_HARASSMENT", "HIGH"),
        f"Invalid value at 'safety_settings[0].threshold' ({PACKAGE}SafetySetting.HarmBlockThreshold), \"HIGH\"",
    ),
    "data prefix": (
        user(blob(data="data:image/png;base64,iVBORw0KGgo=")),
        "Invalid value at 'contents[0].parts[1].inline_data.data' (TYPE_BYTES), Base64 decoding failed for \"data:",
    ),
    "bad base64": (user(blob(data="!!!!")), "(TYPE_BYTES), Base64 decoding failed for"),
    "gif": (user(blob("image/gif")), "Unsupported MIME type: image/gif"),
    "jpg": (user(blob("image/jpg")), "Unsupported MIME type: image/jpg"),
    "bare png": (user(blob("png")), "Unsupported MIME type: png"),
    "other bytes": (user(blob("image/jpeg")), NOT_VALID),
    "broken bytes": (user(blob(data=encoded(size=(64, 64))[:80])), NOT_VALID),
    "no bytes": (user(blob(data="")), NOT_VALID),
    "not heic": (user(blob("image/heic")), NOT_VALID),
    "15 pictures": (user(*[blob()] * 15), CATCH_ALL),
    "file address": (user({"fileData": {"mimeType": "image/png", "fileUri": "https://x/y"}}), "Cannot fetch content"),
    "signature": (
        replay(),
        "Image part is missing a thought_signature in content position 2, part position 2.",
    ),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=list(REFUSED))
def test_a_fault_is_refused_with_google_s_text(app: Starlette, body: Any, message: str) -> None:
    assert_refused(post(app, body), message)


def test_2_5_flash_takes_no_size_and_three_pictures(app: Starlette) -> None:
    assert_refused(post(app, with_image_config(imageSize="2K"), model=FLASH_2_5), CATCH_ALL)
    assert_refused(post(app, user(*[blob()] * 4), model=FLASH_2_5), CATCH_ALL)
    assert post(app, replay(), model=FLASH_2_5).status_code == 200


def test_a_file_nobody_uploaded_is_forbidden(app: Starlette) -> None:
    uri = "https://generativelanguage.googleapis.com/v1beta/files/abc"
    response = post(app, user({"fileData": {"mimeType": "image/png", "fileUri": uri}}))
    message = "You do not have permission to access the File abc or it may not exist."
    assert_refused(response, message, 403, "PERMISSION_DENIED")


ACCEPTED = {
    "snake_case": {
        "contents": [{"parts": [{"text": "x"}, {"inline_data": {"mime_type": "image/png", "data": encoded()}}]}],
        "generation_config": {"image_config": {"aspect_ratio": "16:9", "image_size": "1K"}},
        "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
    },
    "single for repeated": {"contents": {"parts": {"text": "x"}}},
    "null": {**user(), "generationConfig": None, "tools": None},
    "int32 as text": with_config(seed="7"),
    "unpadded base64": user(blob(data=encoded().rstrip("="))),
    "url-safe base64": user(blob(data=encoded().replace("+", "-").replace("/", "_"))),
    "jpeg": user(blob("image/jpeg", encoded("JPEG"))),
    "webp": user(blob("image/webp", encoded("WEBP"))),
    "heic": user(blob("image/heic", pybase64.b64encode(b"\0\0\0\x18ftypheic\0\0\0\0").decode())),
    "14 pictures": user(*[blob()] * 14),
    "signed replay": replay(thoughtSignature="AAAA"),
    "jailbreak": with_safety("HARM_CATEGORY_JAILBREAK"),
    "system": {**user(), "systemInstruction": {"parts": [{"text": "sys"}], "role": "user"}},
    "everything": with_config(temperature=1, topP=0.9, topK=64, stopSequences=["x"], candidateCount=1),
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=list(ACCEPTED))
def test_what_google_takes_is_taken(app: Starlette, body: Any) -> None:
    response = post(app, body)
    assert response.status_code == 200, response.text


def test_the_body_limit_is_google_s_payload_message() -> None:
    assert EmulatorOptions().max_body_bytes == 20_971_520
    small = create_emulator(EmulatorOptions(max_body_bytes=1000))
    assert_refused(post(small, user({"text": "x" * 1000})), "Request payload size exceeds the limit: 1000 bytes.")
    assert post(small, user()).status_code == 200


@pytest.mark.parametrize("model", ["foo", "gemini-3-pro-image-preview", "gemini-3-pro-image-4k"])
def test_an_unknown_or_shut_down_model_is_not_found(app: Starlette, model: str) -> None:
    message = (
        f"models/{model} is not found for API version v1beta, or is not supported for generateContent. "
        "Call ListModels to see the list of available models and their supported methods."
    )
    assert_refused(post(app, user(), model=model), message, 404, "NOT_FOUND")


def test_an_unknown_method_is_named(app: Starlette) -> None:
    response = post(app, user(), path=f"/v1/models/{PRO}:predict")
    assert_refused(response, "is not found for API version v1, or is not supported for predict.", 404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/v2/models", "/v1beta/v1beta/models", f"/v1beta/models/{PRO}", "/v1/models"])
def test_an_address_that_is_no_method_is_an_html_page(app: Starlette, path: str) -> None:
    response = post(app, user(), path=path)
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")


def test_no_key_is_forbidden(app: Starlette) -> None:
    message = "Method doesn't allow unregistered callers (callers without established identity)."
    assert_refused(post(app, user(), headers={}), message, 403, "PERMISSION_DENIED")


def test_a_key_in_the_query_is_taken(app: Starlette) -> None:
    path = f"/v1beta/models/{PRO}:countTokens?key=test-key"
    assert post(app, user(), path=path, headers={}).status_code == 200


def test_a_bad_key_is_a_400(app: Starlette) -> None:
    response = post(app, user(), headers={"x-goog-api-key": "invalid-key"})
    assert_refused(response, "API key not valid. Please pass a valid API key.")
    info, localized = response.json()["error"]["details"]
    assert (info["reason"], info["domain"]) == ("API_KEY_INVALID", "googleapis.com")
    assert localized["locale"] == "en-US"


def test_listed_keys_alone_are_good_when_there_is_a_list() -> None:
    app = create_emulator(EmulatorOptions(api_keys=("first", "an-invalid-looking-one")))
    path = f"/v1beta/models/{PRO}:countTokens"
    assert post(app, user(), path=path, headers={"x-goog-api-key": "an-invalid-looking-one"}).status_code == 200
    assert post(app, user(), path=path, headers={"x-goog-api-key": "test-key"}).status_code == 400


@pytest.mark.parametrize("key", [{"x-goog-api-key": "test-key"}, {}])
def test_a_bearer_is_unauthenticated_with_and_without_a_key(app: Starlette, key: dict[str, str]) -> None:
    response = post(app, user(), headers={"authorization": "Bearer x", **key})
    assert_refused(response, "Request had invalid authentication credentials.", 401, "UNAUTHENTICATED")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["contents", "parts", "text", "inlineData", "data", "seed", "generationConfig", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    with contextlib.suppress(GoogleError):
        assert isinstance(read_message(GenerateContentRequest, value, package="p."), GenerateContentRequest)
