"""Which paths are ours, and what each of them means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from sfumato.images.request import Operation

_IMAGES = re.compile(r"^(?:/v1|/openai/deployments/(?P<model>[^/]+))?/images/(?P<kind>generations|edits)/?$")
_KINDS = {"generations": Operation.GENERATION, "edits": Operation.EDIT}
OWN_PREFIX = "/gemini-image/"


@dataclass(frozen=True, slots=True)
class ImageRoute:
    """A route that makes pictures; the model is set where the path names it (Azure's deployments)."""

    operation: Operation
    model: str | None = None


def match_image_route(path: str) -> ImageRoute | None:
    """Return the image route that *path* is, None when it is another's."""
    match = _IMAGES.match(path)
    if match is None:
        return None
    model = match["model"]
    return ImageRoute(_KINDS[match["kind"]], unquote(model) if model else None)
