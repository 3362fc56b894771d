from __future__ import annotations

import json
import weakref
from itertools import product
from typing import Any

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sfumato.errors import ImageError, NoImageError, SafetyBlockedError, UpstreamFailureError
from sfumato.images.models import FAMILIES
from sfumato.images.prompts import MASK_INSTRUCTION
from sfumato.images.request import ImageRequest, InputImage, Operation, Usage
from sfumato.images.resolution import ImageWish, InputImages, RequestPolicy, SafetyWish, resolve
from sfumato.images.safety import CLASSIC_CATEGORIES, IMAGE_CATEGORIES, Method, Threshold
from sfumato.images.variants import Variant, list_variants, parse_variant
from sfumato.wire.gemini import Answer, build_request, makes_format, parse_response
from sfumato.wire.lifter import Lifter, lift
from sfumato.wire.payload import Piece, Pieces, join

PICTURE = "/9j/4AAQSkZJRg=="
IMAGE = {"inlineData": {"mimeType": "image/jpeg", "data": PICTURE}}


def input_image(mime_type: str = "image/png") -> InputImage:
    return InputImage(b"x", mime_type, 64, 64, has_alpha=True, digest="00")


def asked(
    model: str | Variant = "gemini-3-pro-image",
    *,
    policy: RequestPolicy | None = None,
    inputs: InputImages | None = None,
    **wish: Any,
) -> ImageRequest:
    variant = model if isinstance(model, Variant) else parse_variant(model)
    assert variant is not None
    operation = Operation.EDIT if inputs else Operation.GENERATION
    wish.setdefault("prompt", 'A "cat"\nnamed Å')
    return resolve(ImageWish(operation=operation, variant=variant, **wish), policy or RequestPolicy(), inputs)


def pieces_of(
    request: ImageRequest, *, slot: int = 0, images: Pieces = (), mask: Piece | None = None, **options: Any
) -> Pieces:
    return build_request(request, slot=slot, encoded_images=images, encoded_mask=mask, **options)


def body_of(request: ImageRequest, **options: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(join(pieces_of(request, **options)))
    return body


def check_with_google(body: dict[str, Any]) -> None:
    """Have Google's own types, which forbid unknown fields, read the whole body."""
    rest = dict(body)
    for content in rest.pop("contents"):
        types.Content.model_validate(content)
    config = rest.pop("generationConfig")
    safety = rest.pop("safetySettings")
    assert rest == {}
    types.GenerateContentConfig.model_validate({**config, "safetySettings": safety})
    assert set(config) <= {"responseModalities", "imageConfig", "seed"}
    for setting in safety:
        assert setting["category"] in set(types.HarmCategory)
        assert setting["threshold"] in set(types.HarmBlockThreshold)
        assert setting.get("method", "SEVERITY") in set(types.HarmBlockMethod)


# --- requests ---


def test_a_plain_request() -> None:
    assert body_of(asked()) == {
        "contents": [{"role": "user", "parts": [{"text": 'A "cat"\nnamed Å'}]}],
        "generationConfig": {"responseModalities": ["TEXT", "IMAGE"]},
        "safetySettings": [{"category": category, "threshold": "OFF"} for category in CLASSIC_CATEGORIES],
    }


@pytest.mark.parametrize("variant", list_variants(FAMILIES[0]), ids=lambda v: v.name)
def test_every_variant_is_the_image_config_of_its_name(variant: Variant) -> None:
    body = body_of(asked(variant))
    wanted = {"aspectRatio": variant.aspect_ratio, "imageSize": variant.tier}
    wanted = {name: value for name, value in wanted.items() if value}
    assert body["generationConfig"].get("imageConfig", {}) == wanted
    check_with_google(body)


@pytest.mark.parametrize(("threshold", "seed", "n_images"), list(product(Threshold, [None, 7], [0, 1, 3])))
def test_google_s_types_accept_every_body(threshold: Threshold, seed: int | None, n_images: int) -> None:
    inputs = InputImages(tuple(input_image() for _ in range(n_images))) if n_images else None
    request = asked(inputs=inputs, policy=RequestPolicy(safety_threshold=threshold), seed=seed, quality="hd")
    body = body_of(request, images=(b"AAAA",) * n_images)
    check_with_google(body)
    assert [setting["threshold"] for setting in body["safetySettings"]] == [threshold.value] * 4
    assert len(body["contents"][0]["parts"]) == 1 + n_images


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (("generationConfig", "imageConfig"), "size"),
        (("generationConfig",), "imageSize"),
        (("contents", 0, "parts", 1, "inlineData"), "mimetype"),
        (("contents", 0), "text"),
        (("safetySettings", 0), "level"),
    ],
)
def test_google_s_types_would_see_a_wrong_field(path: tuple[str | int, ...], field: str) -> None:
    body = body_of(asked("gemini-3-pro-image-4k", inputs=InputImages((input_image(),))), images=(b"AAAA",))
    check_with_google(body)
    target: Any = body
    for step in path:
        target = target[step]
    target[field] = "x"
    with pytest.raises(ValidationError):
        check_with_google(body)


def test_candidate_count_is_never_sent() -> None:
    assert "candidateCount" not in json.dumps(body_of(asked(n=10)))


def test_each_slot_moves_the_seed() -> None:
    request = asked(seed=0, n=3)
    assert [body_of(request, slot=slot)["generationConfig"]["seed"] for slot in range(3)] == [0, 1, 2]
    assert "seed" not in body_of(asked(n=3), slot=2)["generationConfig"]


VERTEX = RequestPolicy(backend="vertex")


def test_vertex_is_told_what_it_alone_knows() -> None:
    safety = SafetyWish(
        exceptions={IMAGE_CATEGORIES[1]: Threshold.BLOCK_LOW_AND_ABOVE},
        methods={CLASSIC_CATEGORIES[0]: Method.SEVERITY},
    )
    people: dict[str, Any] = {"person_generation": "ALLOW_NONE", "prominent_people": "BLOCK_PROMINENT_PEOPLE"}
    request = asked("gemini-3-pro-image-4k-16x9", policy=VERTEX, safety=safety, **people)
    body = body_of(request, backend="vertex")
    check_with_google(body)
    assert body["generationConfig"]["imageConfig"] == {
        "aspectRatio": "16:9",
        "imageSize": "4K",
        "personGeneration": "ALLOW_NONE",
        "prominentPeople": "BLOCK_PROMINENT_PEOPLE",
    }
    rows = {row.pop("category"): row for row in body["safetySettings"]}
    assert rows == {
        **{category: {"threshold": "OFF"} for category in CLASSIC_CATEGORIES + IMAGE_CATEGORIES},
        IMAGE_CATEGORIES[1]: {"threshold": "BLOCK_LOW_AND_ABOVE"},
        CLASSIC_CATEGORIES[0]: {"threshold": "OFF", "method": "SEVERITY"},
    }
    elsewhere = body_of(request)
    assert elsewhere["generationConfig"]["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "4K"}
    assert {tuple(row) for row in elsewhere["safetySettings"]} == {("category", "threshold")}


@pytest.mark.parametrize(
    ("wish", "options"),
    [
        ({}, None),
        ({"output_format": "png"}, {"mimeType": "image/png"}),
        ({"output_format": "jpeg"}, {"mimeType": "image/jpeg"}),
        ({"output_format": "jpeg", "output_compression": 0}, {"mimeType": "image/jpeg", "compressionQuality": 0}),
        ({"output_format": "webp", "output_compression": 60}, None),
    ],
)
def test_vertex_makes_png_and_jpeg_itself(wish: dict[str, Any], options: dict[str, Any] | None) -> None:
    request = asked(**wish)
    body = body_of(request, backend="vertex")
    check_with_google(body)
    assert body["generationConfig"].get("imageConfig", {}).get("imageOutputOptions") == options
    assert makes_format(request, "vertex") is (options is not None)
    assert not makes_format(request, "gemini")


def test_in_a_mixed_pool_each_account_gets_its_own_body() -> None:
    policy = RequestPolicy(
        backend="mixed",
        safety_threshold=Threshold.BLOCK_ONLY_HIGH,
        safety_exceptions={IMAGE_CATEGORIES[0]: Threshold.BLOCK_LOW_AND_ABOVE},
    )
    request = asked(policy=policy, output_format="png")
    gemini, vertex = body_of(request), body_of(request, backend="vertex")
    check_with_google(gemini)
    assert "imageConfig" not in gemini["generationConfig"]
    assert [row["category"] for row in gemini["safetySettings"]] == list(CLASSIC_CATEGORIES)
    rows = {row["category"]: row["threshold"] for row in vertex["safetySettings"]}
    assert rows == {
        **dict.fromkeys(CLASSIC_CATEGORIES + IMAGE_CATEGORIES, "BLOCK_ONLY_HIGH"),
        IMAGE_CATEGORIES[0]: "BLOCK_LOW_AND_ABOVE",
    }


def test_pictures_stand_uncopied_between_the_pieces_in_their_order() -> None:
    first, second = bytearray(b"AAAA"), b"BBBB"
    view = memoryview(first)
    inputs = InputImages((input_image("image/webp"), input_image("image/heic")))
    pieces = pieces_of(asked(inputs=inputs), images=(view, second))
    assert [piece for piece in pieces if piece is view or piece is second] == [view, second]
    parts = json.loads(join(pieces))["contents"][0]["parts"]
    assert parts[1:] == [
        {"inlineData": {"mimeType": "image/webp", "data": "AAAA"}},
        {"inlineData": {"mimeType": "image/heic", "data": "BBBB"}},
    ]


def test_the_mask_is_the_second_picture_with_a_fixed_instruction() -> None:
    mask = b"MMMM"
    inputs = InputImages((input_image("image/jpeg"), input_image()))
    pieces = pieces_of(asked(inputs=inputs), images=(b"AAAA", b"BBBB"), mask=mask)
    assert any(piece is mask for piece in pieces)
    body = json.loads(join(pieces))
    text, *pictures = body["contents"][0]["parts"]
    assert text["text"] == f'A "cat"\nnamed Å\n\n{MASK_INSTRUCTION}'
    sent = [(part["inlineData"]["mimeType"], part["inlineData"]["data"]) for part in pictures]
    assert sent == [("image/jpeg", "AAAA"), ("image/png", "MMMM"), ("image/png", "BBBB")]
    check_with_google(body)


def test_every_picture_must_have_come_encoded() -> None:
    with pytest.raises(ValueError, match="zip"):
        pieces_of(asked(inputs=InputImages((input_image(),))), images=())


# --- responses ---


def answer(*parts: Any, reason: str | None = "STOP", usage: Any = None, **rest: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": reason, "index": 0}],
        "modelVersion": "gemini-3-pro-image",
        "responseId": "abc123",
        **rest,
    }
    return document if usage is None else {**document, "usageMetadata": usage}


def parse(document: Any) -> Answer:
    return parse_response(lift(document if isinstance(document, bytes) else json.dumps(document).encode()))


def encoded(document: Any) -> bytes:
    return join(parse(document).encoded)


def image(data: Any, mime_type: Any = "image/jpeg", **part: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": data}, **part}


USAGE = {
    "promptTokenCount": 14,
    "candidatesTokenCount": 1283,
    "totalTokenCount": 1471,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 14}],
    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
    "thoughtsTokenCount": 174,
}


def test_the_recorded_success() -> None:
    text = {"text": "Here is your axolotl.", "thoughtSignature": "c2ln"}
    found = parse(answer(text, {**IMAGE, "thoughtSignature": "c2ln"}, usage=USAGE))
    assert join(found.encoded) == PICTURE.encode()
    assert (found.declared_type, found.finish_reason, found.response_id) == ("image/jpeg", "STOP", "abc123")
    assert found.usage == Usage(
        input_tokens=14,
        input_text_tokens=14,
        output_tokens=1457,
        output_text_tokens=337,
        output_image_tokens=1120,
        thinking_tokens=174,
        total_tokens=1471,
    )


def test_the_picture_stays_in_the_chunks_it_came_in() -> None:
    lifter = Lifter()
    head, tail = json.dumps(answer(image("DRAFT"), image("@"))).encode().split(b"@")
    inner = [b"A" * 100_000, b"B" * 100_000]
    for chunk in (head, *inner, tail):
        lifter.feed(chunk)
    assert all(piece is chunk for piece, chunk in zip(parse_response(lifter.finish()).encoded, inner, strict=True))


LONG = PICTURE[:-2] * 1000 + PICTURE


@pytest.mark.parametrize("sizes", [(LONG, LONG[4:]), ("ZHJhZnQ=", LONG), (LONG, PICTURE)], ids=str)
def test_long_and_short_pictures_are_picked_by_the_same_rule(sizes: tuple[str, str]) -> None:
    draft, final = sizes
    thought = image(LONG[8:], thought=True)
    assert encoded(answer(thought, image(draft), image(final), {"text": "x" * 9000}, thought)) == final.encode()
    assert encoded(answer(thought, {"text": "x" * 9000})) == LONG[8:].encode()


def test_only_the_chosen_picture_lives_on() -> None:
    reply = lift(json.dumps(answer(image("D" * 50_000), image("F" * 50_000))).encode())
    draft, final = (string.pieces[0] for string in reply.strings)
    assert isinstance(draft, memoryview)
    gone = weakref.ref(draft)
    found = parse_response(reply)
    assert found.encoded == (final,)
    del reply, draft
    assert gone() is None


@pytest.mark.parametrize("before", ["", "x" * 9000], ids=["short", "long"])
def test_a_picture_in_text_of_any_length(before: str) -> None:
    text = {"text": f'{before}"see" data:image/png;base64,{LONG} there'}
    assert encoded(answer(text)) == LONG.encode()
    with pytest.raises(NoImageError):
        parse(answer({**text, "thought": True}))


def test_long_words_are_no_stand_ins() -> None:
    document = answer(image(PICTURE, "image/" + "x" * 9000), reason="R" * 9000)
    document["responseId"] = "\x7f0"
    found = parse(document)
    assert found.declared_type == "image/" + "x" * 9000
    assert (found.finish_reason, found.response_id) == ("UNKNOWN", "\x7f0")


@pytest.mark.parametrize(
    ("parts", "data"),
    [
        ([image("ZHJhZnQ="), IMAGE], PICTURE),
        ([image("MQ=="), image("Mg=="), image("Mw==")], "Mw=="),
        ([IMAGE, image("dGhvdWdodA==", thought=True)], PICTURE),
        ([image("MQ==", thought=True), {"text": "hm", "thought": True}, IMAGE, {"text": "done"}], PICTURE),
        ([image("MQ==", thought=True), image("Mg==", thought=True)], "Mg=="),
        ([IMAGE, image("")], PICTURE),
        ([IMAGE, image(None)], PICTURE),
        ([IMAGE, {"inlineData": {"mimeType": "image/png"}}], PICTURE),
        ([IMAGE, image(5)], PICTURE),
        ([IMAGE, image({"a": "\\"})], PICTURE),
        ([image("MQ==", thought=True), image("")], "MQ=="),
        ([{"text": f"see data:image/png;base64,{PICTURE} there"}], PICTURE),
        ([{"text": f"data:image/png;base64,{PICTURE}"}, {"text": "done"}], PICTURE),
        ([{"text": "data:image/svg+xml;base64,PA=="}, IMAGE], PICTURE),
    ],
)
def test_the_last_picture_that_is_not_a_thought_is_the_result(parts: list[Any], data: str) -> None:
    assert encoded(answer(*parts)) == data.encode()


def test_a_thought_s_text_is_not_a_picture() -> None:
    with pytest.raises(NoImageError):
        parse(answer({"text": f"data:image/png;base64,{PICTURE}", "thought": True}))


@pytest.mark.parametrize("length", [100, 9_000])
@pytest.mark.parametrize("stray", ['"}],"injected":[{"x":"', "\n", "\\", "-_"])
def test_what_is_no_base64_never_gets_into_an_answer(length: int, stray: str) -> None:
    with pytest.raises(UpstreamFailureError) as caught:
        parse(answer(image("A" * length + stray + "A" * length)))
    assert caught.value.reason == "MALFORMED_ANSWER"


def test_escapes_in_base64_are_undone() -> None:
    for data in (PICTURE, LONG):
        body = json.dumps(answer(image(data))).replace("/", "\\/").replace("=", "\\u003d").encode()
        assert b"\\/9j\\/" in body
        assert encoded(body) == data.encode()


@pytest.mark.parametrize("reason", ["STOP", None, "MAX_TOKENS", "IMAGE_OTHER", "SOMETHING_NEW", "lower case"])
def test_a_picture_counts_whatever_ended_the_answer(reason: str | None) -> None:
    assert encoded(answer(IMAGE, reason=reason)) == PICTURE.encode()


@pytest.mark.parametrize("mime_type", ["image/png", "", None])
def test_the_declared_type_is_only_told(mime_type: str | None) -> None:
    assert parse(answer(image(PICTURE, mime_type))).declared_type == (mime_type or "")


BLOCKED = [
    "SAFETY",
    "IMAGE_SAFETY",
    "PROHIBITED_CONTENT",
    "IMAGE_PROHIBITED_CONTENT",
    "BLOCKLIST",
    "SPII",
    "RECITATION",
    "IMAGE_RECITATION",
    "MODEL_ARMOR",
]
NO_IMAGE = [
    "MAX_TOKENS",
    "NO_IMAGE",
    "IMAGE_OTHER",
    "OTHER",
    "LANGUAGE",
    "MISSING_THOUGHT_SIGNATURE",
    "ESCALATION",
    "PUP_LIMITED_DISABLED",
    "MALFORMED_FUNCTION_CALL",
    "MALFORMED_RESPONSE",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "CONTINUATION",
    "FINISH_REASON_UNSPECIFIED",
    "SOMETHING_NEW",
]


@pytest.mark.parametrize("reason", BLOCKED)
@pytest.mark.parametrize("parts", [(), (IMAGE,)], ids=["empty", "picture"])
def test_a_refusal_is_an_error_with_its_reason_and_ratings(reason: str, parts: tuple[Any, ...]) -> None:
    document = answer(*parts, reason=reason)
    document["candidates"][0]["safetyRatings"] = [
        {"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH", "blocked": True, "probabilityScore": 0.9},
        {"category": "not a word", "severity": 5, "blocked": "yes"},
        "not a rating",
    ]
    with pytest.raises(SafetyBlockedError) as caught:
        parse(document)
    assert caught.value.reason == reason
    assert reason in caught.value.message
    rating = {"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH", "blocked": True}
    assert caught.value.ratings == (rating, {})


@pytest.mark.parametrize("reason", NO_IMAGE)
def test_no_picture_and_no_refusal(reason: str) -> None:
    with pytest.raises(NoImageError) as caught:
        parse({"candidates": [{"content": {}, "finishReason": reason, "index": 0}]})
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (
            {"candidates": [{"content": {"parts": [{"text": "I would rather talk."}]}, "finishReason": "STOP"}]},
            "TEXT_ONLY",
        ),
        ({"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]}, "EMPTY"),
        ({"candidates": [{"content": {"parts": None}, "finishReason": "STOP"}]}, "EMPTY"),
        ({"candidates": [{"content": {}}]}, "EMPTY"),
        ({"candidates": [{"content": None}]}, "EMPTY"),
        ({"candidates": [{}]}, "EMPTY"),
        ({"candidates": [{"finishReason": "hidden: my secret prompt"}]}, "UNKNOWN"),
        ({"candidates": []}, "EMPTY"),
        ({"candidates": None, "promptFeedback": {}}, "EMPTY"),
        ({}, "EMPTY"),
    ],
)
def test_what_is_missing_is_named(document: Any, reason: str) -> None:
    with pytest.raises(NoImageError) as caught:
        parse(document)
    assert caught.value.reason == reason
    assert "secret" not in caught.value.message


BLOCK_REASONS = [
    "BLOCKED_REASON_UNSPECIFIED",
    "BLOCK_REASON_UNSPECIFIED",
    "SAFETY",
    "OTHER",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "IMAGE_SAFETY",
    "MODEL_ARMOR",
    "JAILBREAK",
    "SOMETHING_NEW",
]


@pytest.mark.parametrize("reason", BLOCK_REASONS)
@pytest.mark.parametrize("candidates", [{}, {"candidates": []}, {"candidates": [{"content": {}}]}])
def test_a_blocked_prompt_is_a_refusal(reason: str, candidates: dict[str, Any]) -> None:
    feedback = {"blockReason": reason, "safetyRatings": [{"category": "HARM_CATEGORY_HATE_SPEECH"}]}
    usage = {"promptTokenCount": 7, "totalTokenCount": 7}
    with pytest.raises(SafetyBlockedError) as caught:
        parse({**candidates, "promptFeedback": feedback, "usageMetadata": usage})
    assert caught.value.reason == reason
    assert caught.value.ratings == ({"category": "HARM_CATEGORY_HATE_SPEECH"},)


def test_a_block_reason_that_is_no_word_is_not_repeated() -> None:
    with pytest.raises(SafetyBlockedError) as caught:
        parse({"promptFeedback": {"blockReason": "you wrote: a secret", "safetyRatings": 5}})
    assert caught.value.reason == "UNKNOWN"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ("many", Usage()),
        ({"totalTokenCount": "x"}, Usage()),
        ({}, Usage()),
        ({"totalTokenCount": None, "promptTokensDetails": None}, Usage()),
        # On refusals, and whenever thinking is all there was, candidates repeat the thoughts: total decides.
        (
            {"promptTokenCount": 12, "candidatesTokenCount": 210, "thoughtsTokenCount": 210, "totalTokenCount": 222},
            Usage(
                input_tokens=12,
                input_text_tokens=12,
                output_tokens=210,
                output_text_tokens=210,
                thinking_tokens=210,
                total_tokens=222,
            ),
        ),
        # Pictures among the input, search results, and a count written as protobuf's JSON writes 64 bits.
        (
            {
                "promptTokenCount": "600",
                "toolUsePromptTokenCount": 50,
                "totalTokenCount": 1770,
                "promptTokensDetails": [
                    {"modality": "IMAGE", "tokenCount": 560},
                    {"modality": "TEXT", "tokenCount": 40},
                    {"modality": None},
                ],
                "candidatesTokensDetails": [
                    {"modality": "IMAGE", "tokenCount": 560},
                    {"modality": "IMAGE", "tokenCount": 560},
                    {"tokenCount": 3},
                ],
            },
            Usage(
                input_tokens=650,
                input_text_tokens=90,
                input_image_tokens=560,
                output_tokens=1120,
                output_image_tokens=1120,
                total_tokens=1770,
            ),
        ),
        # Contradictions never give negative counts.
        (
            {
                "promptTokenCount": 10,
                "totalTokenCount": 4,
                "promptTokensDetails": [{"modality": "IMAGE", "tokenCount": 560}],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
            },
            Usage(input_tokens=10, input_image_tokens=10, total_tokens=4),
        ),
    ],
)
def test_usage_is_read_as_far_as_it_can_be(usage: Any, expected: Usage) -> None:
    found = parse(answer(IMAGE, usage=usage))
    assert found.usage == expected
    assert join(found.encoded) == PICTURE.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"5",
        b'{"candidates":5}',
        b'{"candidates":[5]}',
        b'{"candidates":[{"content":{"parts":[null]}}]}',
        b'{"responseId":"\xff"}',
        b'{"x":' + b"[" * 100_000,
        b'{"candidates":[{"content":{"parts":[{"inlineData":{"data":"AA',
        b'{"candidates":[{"content":{"parts":[{"inlineData":{"data":"' + b"A" * 9000,
        b'{"candidates":[{"content":{"parts":[{"inlineData":{"data":"\\x' + b"A" * 9000 + b'"}}]}}]}',
        b'{"candidates":[{"content":{"parts":[{"text":"\xff' + b"A" * 9000 + b'"}]}}]}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_response_is_an_upstream_failure(body: bytes) -> None:
    with pytest.raises(UpstreamFailureError):
        parse(body)


NAMES = [
    "candidates",
    "content",
    "parts",
    "inlineData",
    "mimeType",
    "data",
    "text",
    "thought",
    "finishReason",
    "promptFeedback",
    "blockReason",
    "safetyRatings",
    "usageMetadata",
    "totalTokenCount",
    "candidatesTokensDetails",
    "modality",
    "tokenCount",
    "responseId",
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["STOP", "SAFETY", "\\", "data:image/png;base64,AA==", PICTURE]),
    st.text(max_size=8),
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=15,
)


@given(documents, documents)
@settings(max_examples=300)
def test_any_json_is_an_answer_or_an_error_of_ours(document: Any, part: Any) -> None:
    for shape in (document, {"candidates": [document]}, answer(part), answer(image(part), usage=document)):
        try:
            found = parse(shape)
        except ImageError:
            continue
        assert len(join(found.encoded)) > 0


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes_are_an_error_of_ours(body: bytes) -> None:
    with pytest.raises(ImageError):
        parse(body)
