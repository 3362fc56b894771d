"""OpenAI's Images API: parameters read, answers and errors written. Contract: openai-python 3.54.0, seen 2026-11-21."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import msgspec

from sfumato.errors import ImageError, InvalidImageError, InvalidParameterError
from sfumato.images.request import (
    CacheControl,
    ImageResult,
    ImageSource,
    Operation,
    ResponseFormat,
    Usage,
)
from sfumato.images.resolution import ImageWish, SafetyWish
from sfumato.images.safety import Method, Threshold, parse_category, parse_method, parse_threshold
from sfumato.images.variants import Variant
from sfumato.wire.image_config import read_image_config
from sfumato.wire.parameters import Parameters
from sfumato.wire.payload import Piece, Pieces

# Accepted without effect: the model has no such dial.
_IGNORED = frozenset({"input_fidelity", "complexity"})


def parse_request(
    operation: Operation,
    variant: Variant,
    fields: Mapping[str, Any],
    *,
    files: Sequence[ImageSource] = (),
    mask: ImageSource | None = None,
    drop_unknown: bool = False,
    tenant: str | None = None,
) -> ImageWish:
    """Read the parameters of a generation or an edit.

    Args:
        operation: What was called.
        variant: What the request's ``model`` means.
        fields: JSON fields, or form fields as strings; null counts as absent.
        files: Pictures that came as multipart files.
        mask: The mask that came as a multipart file.
        drop_unknown: Ignore unknown parameters instead of refusing them.
        tenant: Who is asking.

    Raises:
        InvalidParameterError: A value has the wrong type, is not allowed, or its name is not known.
        InvalidImageError: A picture in JSON has no readable form.
    """
    given = Parameters(fields)
    edit = operation is Operation.EDIT
    config = read_image_config(given, drop_unknown=drop_unknown)
    wish = ImageWish(
        operation=operation,
        variant=variant,
        prompt=given.text("prompt"),
        n=given.integer("n", 1),
        size=given.text("size"),
        quality=given.text("quality"),
        style=given.text("style"),
        aspect_ratio=config.aspect_ratio,
        image_size=config.image_size,
        seed=given.optional_integer("seed"),
        person_generation=config.person_generation,
        prominent_people=config.prominent_people,
        safety=_safety(given),
        images=(*files, *_json_images(given)) if edit else (),
        mask=(mask or _json_mask(given)) if edit else None,
        output_format=config.output_format,
        output_compression=config.output_compression,
        response_format=cast("ResponseFormat", given.choice("response_format", get_args(ResponseFormat)) or "b64_json"),
        user=given.text("user") or given.text("safety_identifier"),
        tenant=tenant,
        cache_control=_cache_control(given, drop_unknown=drop_unknown),
    )
    _check_background(given)
    _check_stream(given)
    given.skip("model", "user", "safety_identifier", *_IGNORED)
    strays = [] if edit else [source.param for source in (*files, mask) if source]
    given.refuse_rest(drop_unknown=drop_unknown, before=strays)
    return wish


def render_response(result: ImageResult, encoded: Sequence[Pieces]) -> Pieces:
    """Write an Images API answer as pieces of JSON.

    Args:
        result: The engine's answer.
        encoded: The base64 of each of ``result.images``, which is spliced in uncopied.
    """
    first = result.images[0].picture
    head = msgspec.json.encode(
        {
            "created": result.created,
            "background": "opaque",
            "output_format": first.format,
            "size": f"{first.width}x{first.height}",
            **({"quality": result.request.tier} if result.request.tier else {}),
        }
    )
    pieces: list[Piece] = [head[:-1], b',"data":[']
    for place, (image, base64) in enumerate(zip(result.images, encoded, strict=True)):
        pieces.append(b"," if place else b"")
        if result.request.response_format == "url":
            pieces += [b'{"url":"data:', image.picture.mime_type.encode(), b";base64,", *base64, b'"']
        else:
            pieces += [b'{"b64_json":"', *base64, b'"']
        if revised := revised_prompt(result):
            pieces += [b',"revised_prompt":', msgspec.json.encode(revised)]
        pieces.append(b"}")
    tail: dict[str, Any] = {"usage": render_usage(result.usage)}
    if result.failures:
        tail["errors"] = render_failures(result)
    pieces += [b"],", msgspec.json.encode(tail)[1:]]
    return tuple(pieces)


def revised_prompt(result: ImageResult) -> str | None:
    """Return the prompt with its enhancement, None when it went out as the client wrote it."""
    request = result.request
    return request.effective_prompt if request.effective_prompt != request.prompt else None


def render_usage(usage: Usage) -> dict[str, Any]:
    """Write token counts in OpenAI's shape."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"text_tokens": usage.input_text_tokens, "image_tokens": usage.input_image_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"image_tokens": usage.output_image_tokens, "text_tokens": usage.output_text_tokens},
        "total_tokens": usage.total_tokens,
    }


def render_failures(result: ImageResult) -> list[dict[str, Any]]:
    """Write the pictures that did not come, beside ``data``."""
    return [{"index": f.slot, "code": f.error.code, "message": f.error.message} for f in result.failures]


def render_error(error: ImageError, *, request_id: str) -> dict[str, Any]:
    """Write an error in OpenAI's shape, with ours beside it."""
    detail: dict[str, Any] = {
        "code": error.code,
        "error_type": error.error_type,
        "category": error.category,
        "retryable": error.retryable,
        "retry_after": error.retry_after,
        "resolution": error.resolution,
        "request_id": request_id,
    }
    if error.reason:
        detail["reason"] = error.reason
    if error.ratings:
        detail["safety_ratings"] = list(error.ratings)
    return {
        "error": {
            "message": error.message,
            "type": error.openai_type,
            "param": error.param,
            "code": error.openai_code,
            "image_error": detail,
        }
    }


def _safety(given: Parameters) -> SafetyWish:
    level, threshold = given.text("safety_level"), given.text("safety_threshold")
    parsed = [
        parse_threshold(value, param=name)
        for name, value in (("safety_level", level), ("safety_threshold", threshold))
        if value is not None
    ]
    if len(set(parsed)) > 1:
        raise InvalidParameterError(
            "'safety_level' and 'safety_threshold' say different things: send one of the two.", param="safety_level"
        )
    exceptions, methods = _categories(given)
    return SafetyWish(
        threshold=parsed[0] if parsed else None,
        exceptions=exceptions,
        methods=methods,
        moderation_low=given.choice("moderation", ("auto", "low")) == "low",
    )


def _categories(given: Parameters) -> tuple[dict[str, Threshold], dict[str, Method]]:
    """Read the rows of ``safety_settings``; whether the backend takes them all is decided where it is known."""
    wishes: dict[str, Threshold] = {}
    methods: dict[str, Method] = {}
    for name in ("safety_settings", "safetySettings"):
        for place, row in enumerate(given.sequence(name)):
            param = f"{name}[{place}]"
            if not isinstance(row, Mapping) or set(row) - {"category", "threshold", "method"}:
                raise InvalidParameterError(f"'{param}' must hold a category and a threshold.", param=param)
            category = parse_category(row.get("category"), param=f"{param}.category", backend="vertex")
            threshold = parse_threshold(row.get("threshold"), param=f"{param}.threshold")
            method = row.get("method")
            method = methods.get(category) if method is None else parse_method(method, param=f"{param}.method")
            if wishes.get(category, threshold) is not threshold or methods.get(category, method) is not method:
                raise InvalidParameterError(f"'{name}' names {category} twice, differently.", param=param)
            wishes[category] = threshold
            if method is not None:
                methods[category] = method
    return wishes, methods


def _cache_control(given: Parameters, *, drop_unknown: bool) -> CacheControl:
    """Read LiteLLM's per-request convention: no-cache, no-store, ttl, s-maxage."""
    wishes = Parameters(given.mapping("cache"), prefix="cache.")
    control = CacheControl(
        no_cache=wishes.boolean("no-cache"),
        no_store=wishes.boolean("no-store"),
        ttl_seconds=wishes.seconds("ttl"),
        max_age_seconds=wishes.seconds("s-maxage"),
    )
    wishes.refuse_rest("Expected no-cache, no-store, ttl or s-maxage.", drop_unknown=drop_unknown)
    return control


def _check_background(given: Parameters) -> None:
    if given.choice("background", ("auto", "opaque", "transparent")) == "transparent":
        raise InvalidParameterError(
            "'background' cannot be transparent: the model makes no alpha channel. Use opaque or auto.",
            param="background",
        )


def _check_stream(given: Parameters) -> None:
    partial_images = given.integer("partial_images", 0)
    if not 0 <= partial_images <= 3:
        raise InvalidParameterError(
            "Invalid value for 'partial_images': expected an integer from 0 to 3.", param="partial_images"
        )
    if given.boolean("stream"):
        raise InvalidParameterError("'stream' is not available here: leave it out or send false.", param="stream")


def _json_images(given: Parameters) -> tuple[ImageSource, ...]:
    found: list[ImageSource] = []
    for name in ("image", "images"):
        value = given.take(name)
        if value is None:
            continue
        rows = value if isinstance(value, list | tuple) else [value]
        found += [parse_image(row, f"{name}[{place}]" if len(rows) > 1 else name) for place, row in enumerate(rows)]
    return tuple(found)


def _json_mask(given: Parameters) -> ImageSource | None:
    value = given.take("mask")
    return None if value is None else parse_image(value, "mask")


def parse_image(value: object, param: str) -> ImageSource:
    """Read a picture in JSON: base64, data URI or address, plain or under ``image_url`` or ``b64_json``."""
    if isinstance(value, Mapping):
        value = value.get("image_url") or value.get("b64_json")
        if isinstance(value, Mapping):
            value = value.get("url")
    if isinstance(value, bytes):
        return ImageSource(param, data=value)
    if not isinstance(value, str) or not value:
        raise InvalidImageError(
            f"'{param}' must be a data URI, base64 text, or an object with 'image_url'.", param=param
        )
    head = value[:200].lower()
    if head.startswith(("http://", "https://")):
        return ImageSource(param, url=value)
    if head.startswith("data:"):
        prefix, comma, text = value.partition(",")
        if not comma or not prefix.lower().endswith(";base64"):
            raise InvalidImageError(f"'{param}' must be a base64 data URI.", param=param)
        return ImageSource(param, base64=text)
    return ImageSource(param, base64=value)
