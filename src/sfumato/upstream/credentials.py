"""What a request to Google is authorized with: the port, and the API key, its simplest form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sfumato.errors import ConfigurationError

_KEY = re.compile(r"[!-~]+")


class Credentials(Protocol):
    """Give the headers that authorize a request. Hashable, and silent about secrets when printed."""

    async def headers(self) -> Mapping[str, str]:
        """Return the headers of one request.

        Raises:
            ImageError: There is nothing valid to authorize with.
        """
        ...


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the Gemini API.

    Raises:
        ConfigurationError: It cannot stand in a header; the message names *label*.
    """

    label: str
    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.value):
            raise ConfigurationError(
                f"The Gemini API key of account '{self.label}' is empty or has characters that no key has."
            )

    async def headers(self) -> Mapping[str, str]:
        """Return the key as a header only: instrumentation records URLs with their query."""
        return {"x-goog-api-key": self.value}
