"""Safety levels, Gemini's thresholds and categories, and the floor that clients cannot go below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from sfumato.errors import InvalidParameterError


class Threshold(StrEnum):
    """Gemini's ``HarmBlockThreshold`` values, weakest first. OFF does not even rate; BLOCK_NONE rates."""

    OFF = "OFF"
    BLOCK_NONE = "BLOCK_NONE"
    BLOCK_ONLY_HIGH = "BLOCK_ONLY_HIGH"
    BLOCK_MEDIUM_AND_ABOVE = "BLOCK_MEDIUM_AND_ABOVE"
    BLOCK_LOW_AND_ABOVE = "BLOCK_LOW_AND_ABOVE"

    @property
    def strictness(self) -> int:
        """Return the place in the order OFF < BLOCK_NONE < LOW < MEDIUM < HIGH."""
        return list(Threshold).index(self)

    @property
    def level(self) -> str:
        """Return the level's name: OFF, BLOCK_NONE, LOW, MEDIUM or HIGH."""
        return next((level for level, threshold in LEVELS.items() if threshold is self), self.value)


LEVELS: Mapping[str, Threshold] = {
    "OFF": Threshold.OFF,
    "LOW": Threshold.BLOCK_ONLY_HIGH,
    "MEDIUM": Threshold.BLOCK_MEDIUM_AND_ABOVE,
    "HIGH": Threshold.BLOCK_LOW_AND_ABOVE,
}


class Method(StrEnum):
    """Vertex AI's ``HarmBlockMethod``: what a threshold is compared with. Google's default is PROBABILITY."""

    PROBABILITY = "PROBABILITY"
    SEVERITY = "SEVERITY"


# AI Studio answers 400 to any other category (seen 2026-07-23).
CLASSIC_CATEGORIES = (
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
)
# On Vertex AI only.
IMAGE_CATEGORIES = (
    "HARM_CATEGORY_IMAGE_HATE",
    "HARM_CATEGORY_IMAGE_DANGEROUS_CONTENT",
    "HARM_CATEGORY_IMAGE_HARASSMENT",
    "HARM_CATEGORY_IMAGE_SEXUALLY_EXPLICIT",
)
# Which Google API is behind; mixed is both.
Backend: TypeAlias = Literal["gemini", "vertex", "mixed"]
CATEGORIES: Mapping[Backend, tuple[str, ...]] = {
    "gemini": CLASSIC_CATEGORIES,
    "vertex": CLASSIC_CATEGORIES + IMAGE_CATEGORIES,
    "mixed": CLASSIC_CATEGORIES + IMAGE_CATEGORIES,
}


@dataclass(frozen=True, slots=True)
class Safety:
    """The effective thresholds of a request, floor applied: one for all categories and exceptions by category.

    Attributes:
        methods: Single categories' methods, which go to Vertex AI only.
        categories: What may be sent, to whichever account the request goes.
    """

    threshold: Threshold = Threshold.OFF
    exceptions: tuple[tuple[str, Threshold], ...] = ()
    methods: tuple[tuple[str, Method], ...] = ()
    categories: tuple[str, ...] = CLASSIC_CATEGORIES

    def settings(self, categories: Iterable[str] | None = None) -> tuple[tuple[str, Threshold], ...]:
        """Return (category, threshold) for each of *categories*, by default for all that may be sent."""
        single = dict(self.exceptions)
        asked = self.categories if categories is None else categories
        return tuple((category, single.get(category, self.threshold)) for category in asked)

    @property
    def level(self) -> str:
        """Return the effective level's name, the weakest where categories differ."""
        return min((threshold for _, threshold in self.settings()), key=lambda t: t.strictness).level


def parse_threshold(value: object, *, param: str) -> Threshold:
    """Read a level or one of Gemini's threshold names, in any case.

    Raises:
        InvalidParameterError: It is neither; never a silent OFF.
    """
    word = value.strip().upper() if isinstance(value, str) else ""
    if word in LEVELS:
        return LEVELS[word]
    if word in Threshold.__members__:
        return Threshold[word]
    allowed = ", ".join([*LEVELS, *(name for name in Threshold.__members__ if name not in LEVELS)])
    msg = f"Invalid value for '{param}': expected one of {allowed}."
    raise InvalidParameterError(msg, param=param)


def parse_category(value: object, *, param: str, backend: Backend = "gemini") -> str:
    """Read a harm category, with or without its ``HARM_CATEGORY_`` prefix, in any case.

    Args:
        value: What somebody wrote.
        param: Its name, for the message.
        backend: ``gemini`` takes four categories, ``vertex`` those for pictures too.

    Raises:
        InvalidParameterError: It is not one that the backend takes.
    """
    word = value.strip().upper() if isinstance(value, str) else ""
    category = word if word.startswith("HARM_CATEGORY_") else f"HARM_CATEGORY_{word}"
    if category in CATEGORIES[backend]:
        return category
    msg = f"Invalid category in '{param}': expected one of {', '.join(CATEGORIES[backend])}."
    raise InvalidParameterError(msg, param=param)


def parse_method(value: object, *, param: str) -> Method:
    """Read a method, in any case.

    Raises:
        InvalidParameterError: It is none.
    """
    word = value.strip().upper() if isinstance(value, str) else ""
    if word in Method.__members__:
        return Method[word]
    raise InvalidParameterError(f"Invalid value for '{param}': expected one of {', '.join(Method)}.", param=param)


def check_for_backend(exceptions: Iterable[str], methods: Mapping[str, Method], backend: Backend) -> None:
    """Refuse a client's categories and methods that only Vertex AI has, where not every account is there.

    Raises:
        InvalidParameterError: There is one.
    """
    if backend == "vertex":
        return
    beyond = [f"{category} is" for category in exceptions if category not in CLASSIC_CATEGORIES]
    if methods:
        beyond.append("a method is")
    if beyond:
        msg = f"In 'safety_settings' {beyond[0]} available with a Vertex AI backend only; leave it out."
        raise InvalidParameterError(msg, param="safety_settings")


def effective_safety(
    *,
    threshold: Threshold,
    exceptions: Mapping[str, Threshold],
    floors: Iterable[Threshold] = (),
    methods: Mapping[str, Method] | None = None,
    backend: Backend = "gemini",
) -> Safety:
    """Apply the floors: a wish below the strictest floor is raised to it, a stricter one stays.

    Args:
        threshold: The wish for every category.
        exceptions: Wishes for single categories, which beat *threshold*; those that *backend* has not are left out.
        floors: Every floor in force (the operator's, the tenant's).
        methods: Wishes of what thresholds are compared with. A floor sets them aside, for another method at the same
            threshold can let more through.
        backend: Decides which categories may be sent.
    """
    floor = max(floors, key=lambda t: t.strictness, default=Threshold.OFF)

    def raised(wish: Threshold) -> Threshold:
        return max(wish, floor, key=lambda t: t.strictness)

    categories = CATEGORIES[backend]
    base = raised(threshold)
    raised_exceptions = {category: raised(wish) for category, wish in sorted(exceptions.items())}
    return Safety(
        base,
        tuple((c, t) for c, t in raised_exceptions.items() if t is not base and c in categories),
        tuple(sorted((methods or {}).items())) if floor is Threshold.OFF else (),
        categories,
    )
