"""The request messages and enums of the Gemini API (AI Studio, v1beta), field by field; for Vertex: `vertex_schema`.

Field names are protobuf's; JSON takes them in camelCase and in snake_case.
Source: google-genai 3.4.0 ``types.py`` and its ``_to_mldev`` converters, seen 2026-11-21.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class Modality(StrEnum):
    """``GenerationConfig.Modality``."""

    MODALITY_UNSPECIFIED = "MODALITY_UNSPECIFIED"
    TEXT = "TEXT"
    IMAGE = "IMAGE"
    AUDIO = "AUDIO"
    VIDEO = "VIDEO"


class MediaResolution(StrEnum):
    """``GenerationConfig.MediaResolution``."""

    MEDIA_RESOLUTION_UNSPECIFIED = "MEDIA_RESOLUTION_UNSPECIFIED"
    MEDIA_RESOLUTION_LOW = "MEDIA_RESOLUTION_LOW"
    MEDIA_RESOLUTION_MEDIUM = "MEDIA_RESOLUTION_MEDIUM"
    MEDIA_RESOLUTION_HIGH = "MEDIA_RESOLUTION_HIGH"


class ThinkingLevel(StrEnum):
    """``ThinkingConfig.ThinkingLevel``."""

    THINKING_LEVEL_UNSPECIFIED = "THINKING_LEVEL_UNSPECIFIED"
    MINIMAL = "MINIMAL"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    XHIGH = "XHIGH"


class HarmCategory(StrEnum):
    """``HarmCategory``; the names parse, and the request check lets six of them through."""

    HARM_CATEGORY_UNSPECIFIED = "HARM_CATEGORY_UNSPECIFIED"
    HARM_CATEGORY_HATE_SPEECH = "HARM_CATEGORY_HATE_SPEECH"
    HARM_CATEGORY_SEXUALLY_EXPLICIT = "HARM_CATEGORY_SEXUALLY_EXPLICIT"
    HARM_CATEGORY_DANGEROUS_CONTENT = "HARM_CATEGORY_DANGEROUS_CONTENT"
    HARM_CATEGORY_HARASSMENT = "HARM_CATEGORY_HARASSMENT"
    HARM_CATEGORY_CIVIC_INTEGRITY = "HARM_CATEGORY_CIVIC_INTEGRITY"
    HARM_CATEGORY_JAILBREAK = "HARM_CATEGORY_JAILBREAK"
    HARM_CATEGORY_IMAGE_HATE = "HARM_CATEGORY_IMAGE_HATE"
    HARM_CATEGORY_IMAGE_DANGEROUS_CONTENT = "HARM_CATEGORY_IMAGE_DANGEROUS_CONTENT"
    HARM_CATEGORY_IMAGE_HARASSMENT = "HARM_CATEGORY_IMAGE_HARASSMENT"
    HARM_CATEGORY_IMAGE_SEXUALLY_EXPLICIT = "HARM_CATEGORY_IMAGE_SEXUALLY_EXPLICIT"


class HarmBlockThreshold(StrEnum):
    """``SafetySetting.HarmBlockThreshold``."""

    HARM_BLOCK_THRESHOLD_UNSPECIFIED = "HARM_BLOCK_THRESHOLD_UNSPECIFIED"
    BLOCK_LOW_AND_ABOVE = "BLOCK_LOW_AND_ABOVE"
    BLOCK_MEDIUM_AND_ABOVE = "BLOCK_MEDIUM_AND_ABOVE"
    BLOCK_ONLY_HIGH = "BLOCK_ONLY_HIGH"
    BLOCK_NONE = "BLOCK_NONE"
    OFF = "OFF"


class ServiceTier(StrEnum):
    """``ServiceTier``, which AI Studio spells in lower case."""

    UNSPECIFIED = "unspecified"
    FLEX = "flex"
    STANDARD = "standard"
    PRIORITY = "priority"


# How error messages name the types, after the package of the API.
NESTED_NAMES = {
    "Modality": "GenerationConfig.Modality",
    "MediaResolution": "GenerationConfig.MediaResolution",
    "ThinkingLevel": "ThinkingConfig.ThinkingLevel",
    "HarmBlockThreshold": "SafetySetting.HarmBlockThreshold",
    "PartMediaResolution": "Part.MediaResolution",
    "PersonGeneration": "ImageConfig.PersonGeneration",
    "ProminentPeople": "ImageConfig.ProminentPeople",
    "HarmBlockMethod": "SafetySetting.HarmBlockMethod",
    "ImageOutputOptions": "ImageConfig.ImageOutputOptions",
    "VertexImageConfig": "ImageConfig",
    "VertexGenerationConfig": "GenerationConfig",
    "VertexSafetySetting": "SafetySetting",
}


class Message(msgspec.Struct, frozen=True):
    """Base of the request messages; every field may be absent, as in proto3."""


class Blob(Message, frozen=True):
    """Inline media."""

    mime_type: str = ""
    data: bytes = b""


class FileData(Message, frozen=True):
    """Media by address."""

    mime_type: str = ""
    file_uri: str = ""


class PartMediaResolution(Message, frozen=True):
    """The resolution a single part is read at."""

    level: str | None = None
    num_tokens: Int32 | None = None


class Part(Message, frozen=True):
    """One part of a turn; exactly one of the fields in `PAYLOADS` is set."""

    text: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: dict[str, Any] | None = None
    function_response: dict[str, Any] | None = None
    executable_code: dict[str, Any] | None = None
    code_execution_result: dict[str, Any] | None = None
    tool_call: dict[str, Any] | None = None
    tool_response: dict[str, Any] | None = None
    thought: bool | None = None
    thought_signature: bytes | None = None
    media_resolution: PartMediaResolution | None = None
    part_metadata: dict[str, Any] | None = None
    video_metadata: dict[str, Any] | None = None


PAYLOADS = (
    "text",
    "inline_data",
    "file_data",
    "function_call",
    "function_response",
    "executable_code",
    "code_execution_result",
    "tool_call",
    "tool_response",
)


class Content(Message, frozen=True):
    """One turn."""

    role: str = ""
    parts: tuple[Part, ...] = ()


class ImageConfig(Message, frozen=True):
    """The picture's shape. Vertex's personGeneration, prominentPeople and imageOutputOptions are unknown here."""

    aspect_ratio: str = ""
    image_size: str = ""


class ThinkingConfig(Message, frozen=True):
    """How much to think, and whether to show it."""

    include_thoughts: bool | None = None
    thinking_budget: Int32 | None = None
    thinking_level: ThinkingLevel | None = None


class GenerationConfig(Message, frozen=True):
    """Generation parameters. ``responseFormat`` is unknown here: reported as 400 on AI Studio."""

    candidate_count: Int32 | None = None
    stop_sequences: tuple[str, ...] = ()
    max_output_tokens: Int32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    seed: Int32 | None = None
    response_mime_type: str = ""
    response_schema: dict[str, Any] | None = None
    response_json_schema: Any = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_logprobs: bool | None = None
    logprobs: Int32 | None = None
    enable_enhanced_civic_answers: bool | None = None
    response_modalities: tuple[Modality, ...] = ()
    speech_config: dict[str, Any] | None = None
    thinking_config: ThinkingConfig | None = None
    image_config: ImageConfig | None = None
    media_resolution: MediaResolution | None = None


class SafetySetting(Message, frozen=True):
    """The threshold of one category. Vertex's ``method`` is unknown here."""

    category: HarmCategory = HarmCategory.HARM_CATEGORY_UNSPECIFIED
    threshold: HarmBlockThreshold = HarmBlockThreshold.HARM_BLOCK_THRESHOLD_UNSPECIFIED


class SearchTypes(Message, frozen=True):
    """What Google Search may look for."""

    web_search: dict[str, Any] | None = None
    image_search: dict[str, Any] | None = None


class GoogleSearch(Message, frozen=True):
    """The search tool. Vertex's ``excludeDomains`` and ``blockingConfidence`` are unknown here."""

    time_range_filter: dict[str, Any] | None = None
    search_types: SearchTypes | None = None


class Tool(Message, frozen=True):
    """One tool."""

    google_search: GoogleSearch | None = None
    google_search_retrieval: dict[str, Any] | None = None
    function_declarations: tuple[dict[str, Any], ...] = ()
    code_execution: dict[str, Any] | None = None
    url_context: dict[str, Any] | None = None
    google_maps: dict[str, Any] | None = None
    computer_use: dict[str, Any] | None = None
    file_search: dict[str, Any] | None = None


class GenerateContentBody(Message, frozen=True):
    """What the bodies of both APIs share."""

    contents: tuple[Content, ...] = ()
    system_instruction: Content | None = None
    generation_config: GenerationConfig | None = None
    safety_settings: tuple[SafetySetting, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_config: dict[str, Any] | None = None
    cached_content: str = ""


class GenerateContentRequest(GenerateContentBody, frozen=True):
    """The body of generateContent and streamGenerateContent. Vertex's labels and modelArmorConfig are unknown here."""

    model: str = ""
    service_tier: ServiceTier | None = None
    store: bool | None = None


class CountTokensRequest(Message, frozen=True):
    """The body of countTokens: turns, or a whole request."""

    model: str = ""
    contents: tuple[Content, ...] = ()
    generate_content_request: GenerateContentRequest | None = None
