"""The list of models, as the models routes give it."""

from __future__ import annotations

from typing import Any

from sfumato.emulator.statuses import GoogleError, invalid_argument
from sfumato.emulator.validation import find_family
from sfumato.images.models import FAMILIES, ModelFamily

METHODS = ("generateContent", "countTokens")
_DEFAULT_PAGE = 50
_MAX_PAGE = 1000


def list_models(*, page_size: str | None, page_token: str | None) -> dict[str, Any]:
    """Return one page of models.

    Args:
        page_size: ``pageSize`` as sent; 50 by default, 1000 at most.
        page_token: ``pageToken`` as sent; the ``nextPageToken`` of the page before.

    Raises:
        GoogleError: 400 for a size or token that is none.
    """
    size = page_size or str(_DEFAULT_PAGE)
    if not size.isdecimal():
        raise invalid_argument(f"Invalid value at 'page_size' (TYPE_INT32), \"{size}\"")
    token = page_token or "0"
    if not token.isdecimal():
        raise invalid_argument()
    start = int(token)
    end = start + min(int(size) or _DEFAULT_PAGE, _MAX_PAGE)
    page: dict[str, Any] = {"models": [_describe(family) for family in FAMILIES[start:end]]}
    return {**page, "nextPageToken": str(end)} if end < len(FAMILIES) else page


def get_model(name: str, *, version: str) -> dict[str, Any]:
    """Return one model.

    Raises:
        GoogleError: 404 for a model that does not exist or was shut down.
    """
    family = find_family(name)
    if family is None:
        raise GoogleError(404, f"Model is not found: models/{name} for api version {version}")
    return _describe(family)


def _describe(family: ModelFamily) -> dict[str, Any]:
    title = family.name.replace("-", " ").title()
    return {
        "name": f"models/{family.name}",
        "version": "3.0" if family.name.startswith("gemini-3") else "2.5",
        "displayName": title,
        "description": f"{title}, drawn by the sfumato emulator",
        "inputTokenLimit": 65536,
        "outputTokenLimit": 32768,
        "supportedGenerationMethods": list(METHODS),
    }
