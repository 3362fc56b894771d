"""Upstream bodies under the eyes of Google's own client: what its types refuse, we must not send."""

from __future__ import annotations

import json
from typing import Any

from google.genai import types

_TOP_LEVEL = {"contents", "generationConfig", "safetySettings"}


def validate(body: dict[str, Any]) -> None:
    """Raise when *body*, as the emulator recorded it, is not what google-genai's types allow.

    The types forbid unknown fields; enum words that they do not know only warn, so those are compared here.
    """
    if set(body) - _TOP_LEVEL:
        raise ValueError(f"unknown fields: {set(body) - _TOP_LEVEL}")
    for content in _with_pictures(body["contents"]):
        types.Content.model_validate(content)
    types.GenerateContentConfig.model_validate(
        {**body.get("generationConfig", {}), "safetySettings": body.get("safetySettings", [])}
    )
    for setting in body.get("safetySettings", []):
        _known(types.HarmCategory, setting["category"])
        _known(types.HarmBlockThreshold, setting["threshold"])


def _known(enum: Any, word: str) -> None:
    if word not in {member.value for member in enum}:
        raise ValueError(f"{word} is not a {enum.__name__}")


def _with_pictures(contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put bytes back where the journal holds their measure."""
    whole: list[dict[str, Any]] = json.loads(json.dumps(contents))
    for content in whole:
        for part in content["parts"]:
            if isinstance(part.get("inlineData", {}).get("data"), dict):
                part["inlineData"]["data"] = "AAAA"
    return whole
