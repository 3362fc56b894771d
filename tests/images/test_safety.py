from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidParameterError
from sfumato.images.safety import (
    CLASSIC_CATEGORIES,
    Safety,
    Threshold,
    effective_safety,
    parse_category,
    parse_threshold,
)

T = Threshold
# Requirements, section 4, in the order of strictness.
LEVELS = {
    "OFF": T.OFF,
    "BLOCK_NONE": T.BLOCK_NONE,
    "LOW": T.BLOCK_ONLY_HIGH,
    "MEDIUM": T.BLOCK_MEDIUM_AND_ABOVE,
    "HIGH": T.BLOCK_LOW_AND_ABOVE,
}
thresholds = st.sampled_from(Threshold)
exceptions = st.dictionaries(st.sampled_from(CLASSIC_CATEGORIES), thresholds)


@pytest.mark.parametrize(("level", "threshold"), LEVELS.items())
def test_levels_mean_gemini_s_thresholds(level: str, threshold: Threshold) -> None:
    for spelling in (level, level.lower(), f" {level.title()} ", threshold.value, threshold.value.lower()):
        assert parse_threshold(spelling, param="safety_level") is threshold
    assert threshold.level == level


def test_strictness_rises_with_the_levels() -> None:
    assert [threshold.strictness for threshold in LEVELS.values()] == [0, 1, 2, 3, 4]
    assert set(LEVELS.values()) == set(Threshold)


@pytest.mark.parametrize("value", [None, "", " ", 0, False, True, [], {}, "NONE", "HARM_BLOCK_THRESHOLD_UNSPECIFIED"])
def test_an_invalid_threshold_is_refused(value: object) -> None:
    with pytest.raises(InvalidParameterError, match="OFF, LOW, MEDIUM, HIGH, BLOCK_NONE") as caught:
        parse_threshold(value, param="safety_level")
    assert caught.value.param == "safety_level"


@given(st.one_of(st.text(), st.integers(), st.none(), st.sampled_from([*LEVELS, *Threshold.__members__])))
@settings(deadline=None, max_examples=300)
def test_never_a_silent_off(value: object) -> None:
    try:
        threshold = parse_threshold(value, param="p")
    except InvalidParameterError:
        return
    assert isinstance(value, str)
    assert value.strip().upper() in {threshold.value, threshold.level}


@pytest.mark.parametrize("category", CLASSIC_CATEGORIES)
def test_categories_with_and_without_their_prefix(category: str) -> None:
    short = category.removeprefix("HARM_CATEGORY_")
    for spelling in (category, category.lower(), short, f" {short.lower()} "):
        assert parse_category(spelling, param="p") == category


@pytest.mark.parametrize(
    "value", [None, 1, "", "VIOLENCE", "HARM_CATEGORY_IMAGE_HATE", "CIVIC_INTEGRITY", "HARM_CATEGORY_JAILBREAK"]
)
def test_any_other_category_is_refused(value: object) -> None:
    with pytest.raises(InvalidParameterError, match="HARM_CATEGORY_HARASSMENT"):
        parse_category(value, param="p")


def test_all_four_categories_are_always_told() -> None:
    assert Safety().settings() == tuple((category, T.OFF) for category in CLASSIC_CATEGORIES)


def test_a_single_category_beats_the_level() -> None:
    safety = effective_safety(threshold=T.BLOCK_ONLY_HIGH, exceptions={CLASSIC_CATEGORIES[1]: T.BLOCK_LOW_AND_ABOVE})
    assert dict(safety.settings()) == {
        **dict.fromkeys(CLASSIC_CATEGORIES, T.BLOCK_ONLY_HIGH),
        CLASSIC_CATEGORIES[1]: T.BLOCK_LOW_AND_ABOVE,
    }
    assert safety.level == "LOW"


def test_the_level_is_the_weakest_that_is_sent() -> None:
    weak = effective_safety(threshold=T.BLOCK_LOW_AND_ABOVE, exceptions={CLASSIC_CATEGORIES[0]: T.BLOCK_NONE})
    assert weak.level == "BLOCK_NONE"
    all_single = effective_safety(
        threshold=T.OFF, exceptions=dict.fromkeys(CLASSIC_CATEGORIES, T.BLOCK_MEDIUM_AND_ABOVE)
    )
    assert all_single.level == "MEDIUM"


@given(thresholds, exceptions, st.lists(thresholds, max_size=3))
@settings(deadline=None, max_examples=300)
def test_no_category_is_below_a_floor_and_none_is_loosened(
    threshold: Threshold, single: dict[str, Threshold], floors: list[Threshold]
) -> None:
    safety = effective_safety(threshold=threshold, exceptions=single, floors=floors)
    for category, effective in safety.settings():
        wish = single.get(category, threshold)
        assert effective.strictness == max(t.strictness for t in (wish, *floors))
    # Categories outside the four (Vertex has more) follow the level, floor applied.
    ((_, other),) = safety.settings(("HARM_CATEGORY_IMAGE_HATE",))
    assert other.strictness == max(t.strictness for t in (threshold, *floors))


@given(thresholds, exceptions)
@settings(deadline=None, max_examples=100)
def test_an_exception_equal_to_the_level_leaves_no_trace(threshold: Threshold, single: dict[str, Threshold]) -> None:
    same = {category: threshold for category in CLASSIC_CATEGORIES if category not in single}
    plain = effective_safety(threshold=threshold, exceptions=single)
    assert effective_safety(threshold=threshold, exceptions={**same, **single}) == plain
