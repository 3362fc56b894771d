"""Where a call went: which of Google's APIs, version, project and model its path names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

VERTEX_PATH = "/{version}/projects/{project}/locations/{location}/publishers/google/models/{name:path}"
_VERSIONS = {"gemini": ("v1", "v1beta"), "vertex": ("v1", "v1beta1")}
_METHODS = {
    "gemini": ("generateContent", "streamGenerateContent", "countTokens"),
    "vertex": ("generateContent", "streamGenerateContent"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A call's path, read; words that it does not have are empty, project and location None on the Gemini API."""

    version: str
    model: str
    method: str
    project: str | None = None
    location: str | None = None

    @classmethod
    def of(cls, path_params: Mapping[str, str]) -> Address:
        """Read what the router found."""
        model, _, method = path_params.get("name", "").partition(":")
        return cls(
            version=path_params.get("version", ""),
            model=model,
            method=method,
            project=path_params.get("project"),
            location=path_params.get("location"),
        )

    @property
    def backend(self) -> Literal["gemini", "vertex"]:
        """Return which API it is."""
        return "gemini" if self.project is None else "vertex"

    @property
    def is_served(self) -> bool:
        """Tell whether the API has this version."""
        return self.version in _VERSIONS[self.backend]

    @property
    def has_method(self) -> bool:
        """Tell whether the API's models have this method."""
        return self.method in _METHODS[self.backend]

    @property
    def package(self) -> str:
        """Return what stands before the names of types in error messages."""
        if self.backend == "gemini":
            return "type.googleapis.com/google.ai.generativelanguage.v1beta."
        return f"type.googleapis.com/google.cloud.aiplatform.{self.version}."

    @property
    def resource(self) -> str:
        """Return the model's full name on Vertex AI."""
        return f"projects/{self.project}/locations/{self.location}/publishers/google/models/{self.model}"
