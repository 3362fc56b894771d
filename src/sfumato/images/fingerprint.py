"""ImageRequest to cache key. Equal requests spelled differently share a key; unequal ones never do."""

from __future__ import annotations

import hashlib
import json

from sfumato.images.prompts import HD_PHRASE, STYLE_PHRASES, STYLE_PREFIX
from sfumato.images.request import ImageRequest
from sfumato.images.safety import CLASSIC_CATEGORIES, Method, Threshold

# Raise this when the meaning of a key or of a stored entry changes: old entries are then never found again.
SCHEMA_VERSION = 1


def fingerprint(request: ImageRequest, *, slot: int = 0, tenant: str | None = None) -> str:
    """Return the cache key of one picture: ``img:{variant}:{quality}:{style}:{sha256}:{slot}``.

    A seeded request draws slot *i* with seed + *i*, so its pictures are keyed by that seed and share slot 0 with
    any other request that reaches the same seed. ``response_format``, the caller and the API key are not part of it.

    Args:
        request: What is asked for.
        slot: Which of the n pictures.
        tenant: Set when entries are not shared between tenants.
    """
    seed, place = (None, slot) if request.seed is None else (request.seed + slot, 0)
    variant = request.resolved_variant
    shape = {
        "schema": SCHEMA_VERSION,
        "model": variant.family.name,
        "prompt": request.effective_prompt,
        "aspect_ratio": request.aspect_ratio,
        "tier": request.tier or variant.family.default_tier,
        "safety": request.safety.settings(CLASSIC_CATEGORIES),
        "seed": seed,
        "person_generation": request.person_generation,
        "images": [[image.digest, image.mime_type] for image in request.images],
        "mask": request.mask.digest if request.mask else None,
        "output": [request.output_format, request.output_compression],
        "tenant": tenant,
        **_vertex_shape(request),
    }
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return f"img:{variant.name}:{_quality(request)}:{_style(request)}:{digest}:{place}"


def prompt_digest(prompt: str) -> str:
    """Return the SHA-256 of the client's own prompt in hex, by which entries are found for invalidation."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def _vertex_shape(request: ImageRequest) -> dict[str, object]:
    """Return what Vertex AI alone is told; nothing where its picture is what the Gemini API would have made.

    That is so for a category at OFF and for Google's default method.
    """
    safety = request.safety
    beyond = [category for category in safety.categories if category not in CLASSIC_CATEGORIES]
    shape = {
        "prominent_people": request.prominent_people,
        "image_safety": [row for row in safety.settings(beyond) if row[1] is not Threshold.OFF],
        "methods": [row for row in safety.methods if row[1] is not Method.PROBABILITY],
    }
    return {name: value for name, value in shape.items() if value}


# The labels are read from the effective prompt, so that they cannot part two requests that are equal in effect.
def _quality(request: ImageRequest) -> str:
    return "hd" if HD_PHRASE in request.effective_prompt else "-"


def _style(request: ImageRequest) -> str:
    for name, phrase in STYLE_PHRASES.items():
        if phrase in request.effective_prompt:
            return name
    return "custom" if STYLE_PREFIX in request.effective_prompt else "-"
