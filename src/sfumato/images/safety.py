"""Safety levels, Gemini's thresholds and categories, and the floor that clients cannot go below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

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

# AI Studio answers 400 to any other category (seen 2026-07-23); the IMAGE_ ones exist on Vertex only.
CLASSIC_CATEGORIES = (
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
)


@dataclass(frozen=True, slots=True)
class Safety:
    """The effective thresholds of a request, floor applied: one for all categories and exceptions by category."""

    threshold: Threshold = Threshold.OFF
    exceptions: tuple[tuple[str, Threshold], ...] = ()

    def settings(self, categories: Iterable[str] = CLASSIC_CATEGORIES) -> tuple[tuple[str, Threshold], ...]:
        """Return (category, threshold) for each of *categories*."""
        single = dict(self.exceptions)
        return tuple((category, single.get(category, self.threshold)) for category in categories)

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


def parse_category(value: object, *, param: str) -> str:
    """Read a harm category, with or without its ``HARM_CATEGORY_`` prefix, in any case.

    Raises:
        InvalidParameterError: It is not one of the four that the Gemini API takes.
    """
    word = value.strip().upper() if isinstance(value, str) else ""
    category = word if word.startswith("HARM_CATEGORY_") else f"HARM_CATEGORY_{word}"
    if category in CLASSIC_CATEGORIES:
        return category
    msg = f"Invalid category in '{param}': expected one of {', '.join(CLASSIC_CATEGORIES)}."
    raise InvalidParameterError(msg, param=param)


def effective_safety(
    *,
    threshold: Threshold,
    exceptions: Mapping[str, Threshold],
    floors: Iterable[Threshold] = (),
) -> Safety:
    """Apply the floors: a wish below the strictest floor is raised to it, a stricter one stays.

    Args:
        threshold: The wish for every category.
        exceptions: Wishes for single categories, which beat *threshold*.
        floors: Every floor in force (the operator's, the tenant's).
    """
    floor = max(floors, key=lambda t: t.strictness, default=Threshold.OFF)

    def raised(wish: Threshold) -> Threshold:
        return max(wish, floor, key=lambda t: t.strictness)

    base = raised(threshold)
    raised_exceptions = {category: raised(wish) for category, wish in sorted(exceptions.items())}
    return Safety(base, tuple((c, t) for c, t in raised_exceptions.items() if t is not base))
