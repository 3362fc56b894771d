"""Gemini's own words on a picture, at the top level or as its ``imageConfig``, in camel case or snake case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast, get_args

from sfumato.errors import InvalidParameterError
from sfumato.images.request import OutputFormat
from sfumato.wire.parameters import Parameters

_WORDS = {
    "aspect_ratio": ("aspectRatio", "aspect_ratio"),
    "image_size": ("imageSize", "image_size"),
    "person_generation": ("personGeneration", "person_generation"),
    "prominent_people": ("prominentPeople", "prominent_people"),
}
# Vertex AI's; elsewhere the picture is transcoded here.
_OUTPUT_TYPES = ("image/png", "image/jpeg")

Value = TypeVar("Value", str, int)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What a request says of the picture in Gemini's words, None where it says nothing."""

    aspect_ratio: str | None = None
    image_size: str | None = None
    person_generation: str | None = None
    prominent_people: str | None = None
    output_format: OutputFormat | None = None
    output_compression: int | None = None


def read_image_config(given: Parameters, *, drop_unknown: bool) -> ImageConfig:
    """Read Gemini's words, and OpenAI's ``output_format`` and ``output_compression``, which say the same.

    Raises:
        InvalidParameterError: A value has the wrong type, a name is not known, or two places say different things.
    """
    texts: dict[str, str | None] = {name: given.text(name) for name in _WORDS}
    texts["output_format"] = given.choice("output_format", get_args(OutputFormat))
    compression = given.optional_integer("output_compression")
    for container in ("imageConfig", "image_config"):
        config = Parameters(given.mapping(container), prefix=f"{container}.")
        for name, spellings in _WORDS.items():
            for spelling in spellings:
                texts[name] = _agreed(texts[name], config.text(spelling), name, f"{container}.{spelling}")
        for inner in ("imageOutputOptions", "image_output_options"):
            options = Parameters(config.mapping(inner), prefix=f"{container}.{inner}.")
            for spelling in ("mimeType", "mime_type"):
                word = (options.choice(spelling, _OUTPUT_TYPES) or "").removeprefix("image/") or None
                param = f"{container}.{inner}.{spelling}"
                texts["output_format"] = _agreed(texts["output_format"], word, "output_format", param)
            for spelling in ("compressionQuality", "compression_quality"):
                param = f"{container}.{inner}.{spelling}"
                compression = _agreed(compression, options.optional_integer(spelling), "output_compression", param)
            options.refuse_rest(drop_unknown=drop_unknown)
        config.refuse_rest(drop_unknown=drop_unknown)
    output_format = cast("OutputFormat | None", texts.pop("output_format"))
    return ImageConfig(**texts, output_format=output_format, output_compression=compression)


def _agreed(known: Value | None, value: Value | None, name: str, param: str) -> Value | None:
    if value is None or known is None:
        return known if value is None else value
    if str(value).lower() != str(known).lower():
        raise InvalidParameterError(f"'{param}' and '{name}' differ: send one of the two.", param=param)
    return value
