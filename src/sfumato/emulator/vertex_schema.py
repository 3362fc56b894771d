"""The request messages of Vertex AI (v1), where they are wider than the Gemini API's.

Source: google-genai 3.4.0 ``types.py`` and its ``_to_vertex`` converters, and Vertex's schema, seen 2026-11-21.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sfumato.emulator.schema import (
    GenerateContentBody,
    GenerationConfig,
    ImageConfig,
    Int32,
    Message,
    SafetySetting,
)


class PersonGeneration(StrEnum):
    """``ImageConfig.PersonGeneration``."""

    PERSON_GENERATION_UNSPECIFIED = "PERSON_GENERATION_UNSPECIFIED"
    ALLOW_ALL = "ALLOW_ALL"
    ALLOW_ADULT = "ALLOW_ADULT"
    ALLOW_NONE = "ALLOW_NONE"


class ProminentPeople(StrEnum):
    """``ImageConfig.ProminentPeople``."""

    PROMINENT_PEOPLE_UNSPECIFIED = "PROMINENT_PEOPLE_UNSPECIFIED"
    ALLOW_PROMINENT_PEOPLE = "ALLOW_PROMINENT_PEOPLE"
    BLOCK_PROMINENT_PEOPLE = "BLOCK_PROMINENT_PEOPLE"


class HarmBlockMethod(StrEnum):
    """``SafetySetting.HarmBlockMethod``."""

    HARM_BLOCK_METHOD_UNSPECIFIED = "HARM_BLOCK_METHOD_UNSPECIFIED"
    SEVERITY = "SEVERITY"
    PROBABILITY = "PROBABILITY"


class ImageOutputOptions(Message, frozen=True):
    """The picture's file. The SDK's ``outputMimeType`` and ``outputCompressionQuality`` are no fields on the wire."""

    mime_type: str = ""
    compression_quality: Int32 | None = None


class VertexImageConfig(ImageConfig, frozen=True):
    """The picture's shape, file, and who may be in it."""

    person_generation: PersonGeneration | None = None
    prominent_people: ProminentPeople | None = None
    image_output_options: ImageOutputOptions | None = None


class VertexGenerationConfig(GenerationConfig, frozen=True):
    """Generation parameters."""

    image_config: VertexImageConfig | None = None
    audio_timestamp: bool | None = None
    routing_config: dict[str, Any] | None = None
    model_config: dict[str, Any] | None = None


class VertexSafetySetting(SafetySetting, frozen=True):
    """The threshold of one category, and what it is compared with."""

    method: HarmBlockMethod | None = None


class VertexGenerateContentRequest(GenerateContentBody, frozen=True):
    """The body of generateContent and streamGenerateContent. The Gemini API's ``store`` is unknown here."""

    generation_config: VertexGenerationConfig | None = None
    safety_settings: tuple[VertexSafetySetting, ...] = ()
    labels: dict[str, Any] | None = None
    model_armor_config: dict[str, Any] | None = None
    service_tier: str = ""
