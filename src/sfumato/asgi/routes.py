"""Which paths are ours, and what each of them means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sfumato.images.request import Operation

_IMAGES = re.compile(r"(?:/v1|/openai/deployments/(?P<model>[^/]+))?/images/(?P<kind>generations|edits)/?")
_KINDS = {"generations": Operation.GENERATION, "edits": Operation.EDIT}
OWN_PREFIX = "/gemini-image/"


@dataclass(frozen=True, slots=True)
class ImageRoute:
    """A route that makes pictures; the model is set where the path names it (Azure's deployments)."""

    operation: Operation
    model: str | None = None


def match_image_route(path: str) -> ImageRoute | None:
    """Return the image route that *path* is, None when it is another's."""
    match = _IMAGES.fullmatch(path)
    if match is None:
        return None
    # The path is decoded already; decoding it again would make other names of some.
    return ImageRoute(_KINDS[match["kind"]], match["model"])
