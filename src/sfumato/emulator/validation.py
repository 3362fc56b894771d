"""What Gemini refuses beyond the JSON's shape, and the `Order` that is left: pure, apart from decoding input pictures.

Texts: recorded from the Gemini API, seen 2026-11-21; where none is known, Google's catch-all
``Request contains an invalid argument.`` stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sfumato.emulator.inputs import InputPicture, read_picture
from sfumato.emulator.schema import (
    PAYLOADS,
    Content,
    GenerateContentBody,
    GenerateContentRequest,
    GenerationConfig,
    HarmBlockThreshold,
    HarmCategory,
    ImageConfig,
    Modality,
    Part,
)
from sfumato.emulator.statuses import GoogleError, invalid_argument
from sfumato.emulator.vertex_schema import VertexGenerateContentRequest, VertexImageConfig
from sfumato.images.models import FAMILIES, ModelFamily

CATEGORIES = (
    HarmCategory.HARM_CATEGORY_HATE_SPEECH,
    HarmCategory.HARM_CATEGORY_SEXUALLY_EXPLICIT,
    HarmCategory.HARM_CATEGORY_DANGEROUS_CONTENT,
    HarmCategory.HARM_CATEGORY_HARASSMENT,
    HarmCategory.HARM_CATEGORY_CIVIC_INTEGRITY,
    HarmCategory.HARM_CATEGORY_JAILBREAK,
)
_OUTPUT_TYPES = ("", "image/png", "image/jpeg")
# The lists in Google's messages are those of all models together (seen 2026-10-01).
_ALL_SIZES = ("1K", "2K", "4K", "512", "512P", "512PX")
_ALL_RATIOS = ("1:1", "1:4", "1:8", "2:3", "3:2", "3:4", "4:1", "4:3", "4:5", "5:4", "8:1", "9:16", "16:9", "21:9")
_SIZE_SYNONYMS = {"512P": "512", "512PX": "512"}
_ROLES = ("", "user", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that Gemini would serve.

    Attributes:
        prompt: Every text of the user's turns and of the system instruction, joined by newlines.
        tier: ``imageSize``, None when the request left it open; likewise *aspect_ratio*.
        images: Every inline picture, in order.
        safety: (category, threshold) as sent.
        vertex: Whether Vertex AI was asked, which tells the kind of traffic.
        output_type, output_quality: What file Vertex AI is asked for, None where that was left open.
        draws: False when the response modalities hold no IMAGE; *speaks* likewise for TEXT.
    """

    family: ModelFamily
    prompt: str
    tier: str | None = None
    aspect_ratio: str | None = None
    images: tuple[InputPicture, ...] = ()
    seed: int | None = None
    safety: tuple[tuple[str, str], ...] = ()
    draws: bool = True
    speaks: bool = True
    include_thoughts: bool = False
    max_output_tokens: int | None = None
    service_tier: str | None = None
    searches: bool = False
    vertex: bool = False
    output_type: str | None = None
    output_quality: int | None = None

    @property
    def effective_ratio(self) -> str:
        """Return the ratio asked for, else the nearest to the first input picture, else 1:1."""
        if self.aspect_ratio:
            return self.aspect_ratio
        first = next((image for image in self.images if image.width), None)
        if first is None:
            return "1:1"
        wanted = math.log(first.width / first.height)
        pixels = self.family.pixels
        return min(pixels, key=lambda ratio: abs(math.log(pixels[ratio][0] / pixels[ratio][1]) - wanted))

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Return the width and height to draw."""
        return self.family.pixel_size(self.tier, self.effective_ratio)


def find_family(model: str) -> ModelFamily | None:
    """Return the family served under exactly *model*; the preview id was shut down on 2026-06-25."""
    return next((family for family in FAMILIES if family.name == model), None)


def validate(family: ModelFamily, request: GenerateContentBody) -> Order:
    """Check *request* as Gemini does for the model *family*.

    Raises:
        GoogleError: With the status and the text of the first fault found.
    """
    _check_contents(request.contents)
    config = request.generation_config or GenerationConfig()
    _check_config(config)
    _check_tools(request)
    safety = _check_safety(request)
    image_config = config.image_config or ImageConfig()
    tier, ratio = _check_image_config(family, image_config)
    output_type, output_quality = _check_output(image_config)
    _check_signatures(family, request.contents)
    parts = [part for content in request.contents for part in content.parts]
    system = request.system_instruction.parts if request.system_instruction else ()
    spoken = [part for content in request.contents if content.role != "model" for part in content.parts]
    modalities = config.response_modalities or (Modality.TEXT, Modality.IMAGE)
    return Order(
        family=family,
        prompt="\n".join(part.text for part in (*system, *spoken) if part.text),
        tier=tier,
        aspect_ratio=ratio,
        images=tuple(_read_pictures(family, parts)),
        seed=config.seed,
        safety=safety,
        draws=Modality.IMAGE in modalities,
        speaks=Modality.TEXT in modalities,
        include_thoughts=bool(config.thinking_config and config.thinking_config.include_thoughts),
        max_output_tokens=config.max_output_tokens,
        service_tier=_service_tier(request),
        searches=any(tool.google_search for tool in request.tools),
        vertex=isinstance(request, VertexGenerateContentRequest),
        output_type=output_type,
        output_quality=output_quality,
    )


def _check_contents(contents: tuple[Content, ...]) -> None:
    if not contents:
        raise _predicate("contents: contents is not specified")
    for index, content in enumerate(contents):
        if content.role not in _ROLES:
            raise invalid_argument("Please use a valid role: user, model.")
        if not content.parts:
            raise _predicate(f"contents[{index}].parts: contents.parts must not be empty.")
        for place, part in enumerate(content.parts):
            if all(getattr(part, name) is None for name in PAYLOADS):
                where = f"contents[{index}].parts[{place}].data"
                raise _predicate(f"{where}: required oneof field 'data' must have one initialized field")


def _check_config(config: GenerationConfig) -> None:
    if (config.candidate_count or 1) != 1:
        raise invalid_argument("Multiple candidates is not enabled for this model")
    if config.media_resolution is not None:
        raise invalid_argument("Media resolution is not enabled for this model")
    if config.temperature is not None and not 0 <= config.temperature <= 2:
        raise _predicate("generation_config.temperature: temperature must be in the range [0.0, 2.0].")
    if config.top_p is not None and not 0 <= config.top_p <= 1:
        raise _predicate("generation_config.top_p: top_p must be in the range [0.0, 1.0].")
    if config.response_mime_type not in ("", "text/plain") or config.response_schema or config.response_json_schema:
        raise invalid_argument("JSON mode is not enabled for this model")
    unsupported = [m for m in config.response_modalities if m not in (Modality.TEXT, Modality.IMAGE)]
    if unsupported or config.speech_config:
        asked = ", ".join(config.response_modalities)
        message = f"The requested combination of response modalities ({asked}) is not supported by the model."
        raise invalid_argument(message)


def _check_tools(request: GenerateContentBody) -> None:
    if any(tool.function_declarations for tool in request.tools):
        raise invalid_argument("Function calling is not enabled for this model")
    if any(tool.code_execution is not None for tool in request.tools):
        raise invalid_argument("Code execution is not enabled for this model")
    if request.cached_content:
        raise GoogleError(403, "CachedContent not found (or permission denied)")


def _check_safety(request: GenerateContentBody) -> tuple[tuple[str, str], ...]:
    if isinstance(request, VertexGenerateContentRequest):
        if any(row.category is HarmCategory.HARM_CATEGORY_UNSPECIFIED for row in request.safety_settings):
            raise invalid_argument()
        return tuple((row.category.value, row.threshold.value) for row in request.safety_settings)
    allowed = ", ".join(CATEGORIES)
    faults = [
        f"* GenerateContentRequest.safety_settings[{index}]: element predicate failed: $.category in ({allowed})"
        for index, setting in enumerate(request.safety_settings)
        if setting.category not in CATEGORIES
    ]
    if faults:
        raise invalid_argument("\n".join(faults))
    for setting in request.safety_settings:
        civic = setting.category is HarmCategory.HARM_CATEGORY_CIVIC_INTEGRITY
        if civic and setting.threshold is HarmBlockThreshold.OFF:
            raise invalid_argument(f"{setting.category} threshold cannot be 5")
    return tuple((setting.category.value, setting.threshold.value) for setting in request.safety_settings)


def _check_image_config(family: ModelFamily, config: ImageConfig) -> tuple[str | None, str | None]:
    tier = config.image_size
    if tier and not family.tiers and tier in _ALL_SIZES:
        raise invalid_argument()
    if tier and (tier not in _ALL_SIZES or _SIZE_SYNONYMS.get(tier, tier) not in family.tier_names):
        supported = family.tier_names if tier in _ALL_SIZES else _ALL_SIZES
        raise invalid_argument(f"Unsupported image_size '{tier}'. Supported values are: {', '.join(supported)}.")
    ratio = config.aspect_ratio
    if ratio and ratio not in family.pixels:
        known = family.aspect_ratios if ratio in _ALL_RATIOS else _ALL_RATIOS
        listed = ", ".join(f"'{name}'" for name in known[:-1]) + f", or '{known[-1]}'"
        raise invalid_argument(f"aspect_ratio must be one of {listed}")
    return _SIZE_SYNONYMS.get(tier, tier) or None, ratio or None


def _check_output(config: ImageConfig) -> tuple[str | None, int | None]:
    """Return the file that Vertex AI is asked for; what it says to another is not known, so it is the catch-all."""
    options = config.image_output_options if isinstance(config, VertexImageConfig) else None
    if options is None:
        return None, None
    quality = options.compression_quality
    if options.mime_type not in _OUTPUT_TYPES or (quality is not None and not 0 <= quality <= 100):
        raise invalid_argument()
    return options.mime_type or None, quality


def _service_tier(request: GenerateContentBody) -> str | None:
    tier = request.service_tier if isinstance(request, GenerateContentRequest) else None
    return tier.value if tier else None


def _check_signatures(family: ModelFamily, contents: tuple[Content, ...]) -> None:
    """Refuse pictures replayed in a model turn without their signature; positions in the message count from 1."""
    if not family.name.startswith("gemini-3"):
        return
    for index, content in enumerate(contents, start=1):
        for place, part in enumerate(content.parts, start=1):
            if content.role == "model" and part.inline_data and not part.thought_signature:
                message = (
                    f"Image part is missing a thought_signature in content position {index}, part position {place}. "
                    "Please refer to https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
                )
                raise invalid_argument(message)


def _read_pictures(family: ModelFamily, parts: list[Part]) -> Iterator[InputPicture]:
    blobs = [part.inline_data for part in parts if part.inline_data]
    if len(blobs) > family.max_input_images:
        raise invalid_argument()
    for part in parts:
        if part.media_resolution is not None:
            raise invalid_argument("Media resolution is not enabled for this model")
        if part.file_data and "/files/" in part.file_data.file_uri:
            name = part.file_data.file_uri.rpartition("/")[2]
            raise GoogleError(403, f"You do not have permission to access the File {name} or it may not exist.")
        if part.file_data:
            raise invalid_argument("Cannot fetch content from the provided URL.")
    for blob in blobs:
        yield read_picture(blob)


def _predicate(text: str) -> GoogleError:
    return invalid_argument(f"* GenerateContentRequest.{text}")
