"""What becomes of asking Google for a token: one with an end, or a reason in one word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sfumato.errors import ImageError, NetworkError, UpstreamAuthError


@dataclass(frozen=True, slots=True)
class Token:
    """The headers of a token, and when it ends in Unix seconds."""

    headers: Mapping[str, str]
    ends: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no token.

    Attributes:
        reason: One word.
        passing: Whether it may pass by itself, and tells nothing of the account.
        pause_seconds: When the account is to be tried again; None where somebody must do something first.
    """

    reason: str
    passing: bool
    pause_seconds: float | None = None

    def error(self) -> ImageError:
        """Build an error, a new one for each request."""
        if self.passing:
            return NetworkError("Google's token server cannot be reached. Send the request again.", reason=self.reason)
        return UpstreamAuthError(
            "Google gives this installation no token for Vertex AI. Tell the operator.",
            reason=self.reason,
            retry_after=self.pause_seconds,
        )
