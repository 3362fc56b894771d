"""generateContent: requests built, responses read. Field facts: Google's API reference and SDK, seen 2026-11-21."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from sfumato.errors import NoImageError, SafetyBlockedError, UpstreamFailureError
from sfumato.images.prompts import MASK_INSTRUCTION
from sfumato.images.request import ImageRequest, Usage
from sfumato.images.safety import CATEGORIES, Safety
from sfumato.wire.gemini_errors import machine_word
from sfumato.wire.lifter import Lifted
from sfumato.wire.payload import Piece, Pieces

BLOCKED_REASONS = frozenset(
    {
        "SAFETY",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "IMAGE_PROHIBITED_CONTENT",
        "BLOCKLIST",
        "SPII",
        "RECITATION",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
        "JAILBREAK",
    }
)
# "You will not be charged for this request": these pass on a repetition often enough to try once.
RETRIED_REASONS = frozenset({"NO_IMAGE", "IMAGE_OTHER", "OTHER"})
# Our own words, beside Gemini's.
MALFORMED = "MALFORMED_ANSWER"
LOST = "LOST_ANSWER"
_PASSING_REASONS = frozenset({"TEXT_ONLY", "EMPTY", "MALFORMED_RESPONSE", "FINISH_REASON_UNSPECIFIED"})
_DATA_URI = re.compile(rb"data:image/[a-z.+-]+;base64,([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A generateContent response that holds a picture.

    Attributes:
        encoded: The picture's base64, in the chunks it came in.
        declared_type: The mime type Gemini named; it has contradicted the bytes (python-genai #1824).
        finish_reason: Gemini's word.
        response_id: Gemini's id of the response, empty when absent.
    """

    encoded: Pieces
    declared_type: str
    usage: Usage
    finish_reason: str
    response_id: str


class _Wire(msgspec.Struct, rename="camel"):
    """Base of the response structs; unknown fields are ignored."""


class _Blob(_Wire):
    mime_type: str | None = None
    # Anything, so that a shape that Google never sends is no picture instead of no answer.
    data: Any = None


class _Part(_Wire):
    inline_data: _Blob | None = None
    text: str | None = None
    thought: bool | None = None


class _Content(_Wire):
    parts: list[_Part] | None = None


class _Candidate(_Wire):
    content: _Content | None = None
    finish_reason: str | None = None
    safety_ratings: Any = None


class _Feedback(_Wire):
    block_reason: str | None = None
    safety_ratings: Any = None


class _Modality(_Wire):
    modality: str | None = None
    token_count: int | None = None


class _UsageMetadata(_Wire):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    thoughts_token_count: int | None = None
    total_token_count: int | None = None
    prompt_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None


class _Response(_Wire):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    # Read on its own: counts of an unknown shape must not lose a picture that is paid for.
    usage_metadata: msgspec.Raw = msgspec.Raw(b"null")
    response_id: str | None = None


_decoder = msgspec.json.Decoder(_Response)
# Not strict: protobuf's JSON writes 64-bit counts as strings.
_usage_decoder = msgspec.json.Decoder(_UsageMetadata | None, strict=False)


def build_request(
    request: ImageRequest,
    *,
    slot: int,
    encoded_images: Pieces,
    encoded_mask: Piece | None,
    backend: Literal["gemini", "vertex"] = "gemini",
) -> Pieces:
    """Build the body of one generateContent call.

    Args:
        request: What is asked for.
        slot: Which of the n pictures; it moves the seed.
        encoded_images: The input images as base64, in the order of ``request.images``.
        encoded_mask: The black and white picture of the mask as base64 PNG.
        backend: Where the call goes. The Gemini API answers 400 to what only Vertex AI knows.

    Returns:
        Pieces of JSON; the base64 stands between them uncopied. ``candidateCount`` is never sent: above 1 it is a 400.
    """
    text = request.effective_prompt
    pictures = [(image.mime_type, data) for image, data in zip(request.images, encoded_images, strict=True)]
    if encoded_mask is not None:
        text = f"{text}\n\n{MASK_INSTRUCTION}"
        pictures.insert(1, ("image/png", encoded_mask))
    rest = msgspec.json.encode(
        {
            "generationConfig": _generation_config(request, slot, backend),
            "safetySettings": _safety_settings(request.safety, backend),
        }
    )
    pieces: list[Piece] = [b'{"contents":[{"role":"user","parts":[', msgspec.json.encode({"text": text})]
    for mime_type, data in pictures:
        pieces += [b',{"inlineData":{"mimeType":"', mime_type.encode(), b'","data":"', data, b'"}}']
    pieces += [b"]}],", rest[1:]]
    return tuple(pieces)


def parse_response(reply: Lifted) -> Answer:
    """Read a 200 body of generateContent; only the chosen picture's pieces live on in what is returned.

    Raises:
        SafetyBlockedError: Gemini refused: a refusal is HTTP 200 with a ``finishReason`` or a ``blockReason``.
        NoImageError: No picture and no refusal; ``reason`` is Gemini's word or ``TEXT_ONLY`` or ``EMPTY``.
        UpstreamFailureError: It is not a generateContent response, or cannot be read from disk any more.
    """
    try:
        return _read(_decoder.decode(reply.skeleton), reply)
    except OSError:
        raise UpstreamFailureError(
            "Gemini's answer could not be read from this installation's disk. Send the request again.", reason=LOST
        ) from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise UpstreamFailureError(
            "Gemini answered with something that is not a response. Send the request again.", reason=MALFORMED
        ) from None


def _read(response: _Response, reply: Lifted) -> Answer:
    if not response.candidates:
        raise _refusal(response.prompt_feedback) or NoImageError(
            "Gemini answered without a picture and without a reason.", reason="EMPTY"
        )
    candidate = response.candidates[0]
    reason = machine_word(candidate.finish_reason or "STOP") or "UNKNOWN"
    if reason in BLOCKED_REASONS:
        raise _blocked(reason, candidate.safety_ratings)
    parts = (candidate.content.parts if candidate.content else None) or []
    picked = _pick(parts, reply)
    if picked is None:
        raise _refusal(response.prompt_feedback) or _no_image(reason, parts)
    return Answer(
        encoded=picked[1],
        declared_type=picked[0],
        usage=_usage(response.usage_metadata),
        finish_reason=reason,
        response_id=reply.text(response.response_id or ""),
    )


def makes_format(request: ImageRequest, backend: Literal["gemini", "vertex"]) -> bool:
    """Tell whether *backend* itself is asked for the output format and its compression."""
    return backend == "vertex" and request.output_format in ("png", "jpeg")


def _generation_config(request: ImageRequest, slot: int, backend: Literal["gemini", "vertex"]) -> dict[str, Any]:
    config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
    image_config: dict[str, Any] = {"aspectRatio": request.aspect_ratio, "imageSize": request.tier}
    if backend == "vertex":
        image_config |= {"personGeneration": request.person_generation, "prominentPeople": request.prominent_people}
    if makes_format(request, backend):
        output = {"mimeType": f"image/{request.output_format}", "compressionQuality": request.output_compression}
        image_config["imageOutputOptions"] = {name: value for name, value in output.items() if value is not None}
    if image_config := {name: value for name, value in image_config.items() if value is not None}:
        config["imageConfig"] = image_config
    if request.seed is not None:
        config["seed"] = request.seed + slot
    return config


def _safety_settings(safety: Safety, backend: Literal["gemini", "vertex"]) -> list[dict[str, str]]:
    methods = dict(safety.methods) if backend == "vertex" else {}
    return [
        {"category": category, "threshold": threshold.value}
        | ({"method": methods[category].value} if category in methods else {})
        for category, threshold in safety.settings(CATEGORIES[backend])
    ]


def _pick(parts: list[_Part], reply: Lifted) -> tuple[str, Pieces] | None:
    """Pick the result: the last picture that is not a thought.

    Complex prompts give 2-10 pictures without the flag, drafts first (measured over 66 calls); when only thoughts
    hold pictures, the documentation says the last of them equals the final one.
    """
    blobs = [(bool(part.thought), part.inline_data) for part in parts if part.inline_data and _filled(part.inline_data)]
    finals = [blob for thought, blob in blobs if not thought] or [blob for _, blob in blobs]
    if finals:
        return reply.text(finals[-1].mime_type or ""), reply.base64(finals[-1].data)
    for part in reversed(parts):
        # Rarely the text holds the picture as a data URI.
        match = _DATA_URI.search(reply.text(part.text).encode()) if part.text and not part.thought else None
        if match:
            return "", (match[1],)
    return None


def _filled(blob: _Blob) -> bool:
    return isinstance(blob.data, str) and blob.data != ""


def _usage(raw: msgspec.Raw) -> Usage:
    try:
        counts = _usage_decoder.decode(raw)
    except msgspec.MsgspecError:
        return Usage()
    if counts is None:
        return Usage()
    inputs = (counts.prompt_token_count or 0) + (counts.tool_use_prompt_token_count or 0)
    total = counts.total_token_count or 0
    output = max(0, total - inputs)
    input_image = min(inputs, _tokens(counts.prompt_tokens_details, "IMAGE"))
    output_image = min(output, _tokens(counts.candidates_tokens_details, "IMAGE"))
    return Usage(
        input_tokens=inputs,
        input_image_tokens=input_image,
        input_text_tokens=inputs - input_image,
        output_tokens=output,
        output_image_tokens=output_image,
        output_text_tokens=output - output_image,
        thinking_tokens=counts.thoughts_token_count or 0,
        total_tokens=total,
    )


def _tokens(details: list[_Modality] | None, modality: str) -> int:
    return sum(row.token_count or 0 for row in details or () if row.modality == modality)


def _refusal(feedback: _Feedback | None) -> SafetyBlockedError | None:
    if feedback is None or not feedback.block_reason:
        return None
    return _blocked(machine_word(feedback.block_reason) or "UNKNOWN", feedback.safety_ratings)


def _blocked(reason: str, ratings: Any) -> SafetyBlockedError:
    return SafetyBlockedError(
        f"Gemini refused to make this picture ({reason}). Rephrase the prompt or change the input images.",
        reason=reason,
        ratings=tuple(_rating(row) for row in ratings if isinstance(row, dict)) if isinstance(ratings, list) else (),
    )


def _rating(rating: dict[str, Any]) -> dict[str, Any]:
    words = {name: machine_word(rating.get(name)) for name in ("category", "probability", "severity")}
    known: dict[str, Any] = {name: word for name, word in words.items() if word}
    blocked = rating.get("blocked")
    return {**known, "blocked": blocked} if isinstance(blocked, bool) else known


def _no_image(reason: str, parts: list[_Part]) -> NoImageError:
    if reason == "STOP":
        reason = "TEXT_ONLY" if any(part.text and not part.thought for part in parts) else "EMPTY"
    what = {
        "TEXT_ONLY": "Gemini answered with text instead of a picture. Ask for a picture explicitly.",
        "MAX_TOKENS": "Gemini ran out of output tokens before the picture. Shorten the prompt.",
    }
    message = what.get(reason, f"Gemini made no picture ({reason}). Send the request again or rephrase the prompt.")
    # LANGUAGE, MAX_TOKENS and the like follow from the request: the same one ends the same way.
    return NoImageError(message, reason=reason, retryable=reason in RETRIED_REASONS | _PASSING_REASONS)
