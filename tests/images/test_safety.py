from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidParameterError
from sfumato.images.safety import (
    CATEGORIES,
    CLASSIC_CATEGORIES,
    IMAGE_CATEGORIES,
    Backend,
    Method,
    Safety,
    Threshold,
    effective_safety,
    parse_category,
    parse_method,
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
exceptions = st.dictionaries(st.sampled_from(CATEGORIES["vertex"]), thresholds)


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
@settings(max_examples=300)
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


@pytest.mark.parametrize("category", IMAGE_CATEGORIES)
def test_vertex_has_categories_for_pictures(category: str) -> None:
    for spelling in (category, category.removeprefix("HARM_CATEGORY_").lower()):
        assert parse_category(spelling, param="p", backend="vertex") == category
    assert parse_category("HARASSMENT", param="p", backend="vertex") == CLASSIC_CATEGORIES[0]
    with pytest.raises(InvalidParameterError, match="HARM_CATEGORY_IMAGE_HATE"):
        parse_category("JAILBREAK", param="p", backend="vertex")


@pytest.mark.parametrize("value", [None, 1, "", "HARM_BLOCK_METHOD_UNSPECIFIED"])
def test_a_method_is_one_of_two(value: object) -> None:
    assert parse_method(" severity ", param="p") is Method.SEVERITY
    with pytest.raises(InvalidParameterError, match="PROBABILITY, SEVERITY"):
        parse_method(value, param="p")


@pytest.mark.parametrize("backend", ["vertex", "mixed"])
def test_on_vertex_the_categories_for_pictures_follow_the_level(backend: Backend) -> None:
    safety = effective_safety(
        threshold=T.BLOCK_ONLY_HIGH, exceptions={IMAGE_CATEGORIES[0]: T.BLOCK_LOW_AND_ABOVE}, backend=backend
    )
    assert dict(safety.settings()) == {
        **dict.fromkeys(CLASSIC_CATEGORIES + IMAGE_CATEGORIES, T.BLOCK_ONLY_HIGH),
        IMAGE_CATEGORIES[0]: T.BLOCK_LOW_AND_ABOVE,
    }


def test_the_gemini_api_has_no_trace_of_categories_for_pictures() -> None:
    single = {IMAGE_CATEGORIES[0]: T.BLOCK_LOW_AND_ABOVE}
    assert effective_safety(threshold=T.OFF, exceptions=single) == effective_safety(threshold=T.OFF, exceptions={})


def test_a_floor_sets_methods_aside() -> None:
    methods = {CLASSIC_CATEGORIES[0]: Method.SEVERITY}
    free = effective_safety(threshold=T.OFF, exceptions={}, methods=methods, backend="vertex")
    assert free.methods == ((CLASSIC_CATEGORIES[0], Method.SEVERITY),)
    for floor in Threshold:
        held = effective_safety(threshold=T.OFF, exceptions={}, floors=[floor], methods=methods, backend="vertex")
        assert held.methods == (free.methods if floor is T.OFF else ())


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
    # On Vertex AI the categories for pictures are sent beside them, at the level.
    beside = effective_safety(threshold=T.OFF, exceptions=dict(all_single.exceptions), backend="vertex")
    assert beside.level == "OFF"


@given(thresholds, exceptions, st.lists(thresholds, max_size=3), st.sampled_from(["gemini", "vertex", "mixed"]))
@settings(max_examples=300)
def test_no_category_is_below_a_floor_and_none_is_loosened(
    threshold: Threshold, single: dict[str, Threshold], floors: list[Threshold], backend: Backend
) -> None:
    safety = effective_safety(threshold=threshold, exceptions=single, floors=floors, backend=backend)
    assert {category for category, _ in safety.settings()} == set(CATEGORIES[backend])
    for category, effective in safety.settings():
        wish = single.get(category, threshold)
        assert effective.strictness == max(t.strictness for t in (wish, *floors))


@given(thresholds, exceptions)
@settings(max_examples=100)
def test_an_exception_equal_to_the_level_leaves_no_trace(threshold: Threshold, single: dict[str, Threshold]) -> None:
    same = {category: threshold for category in CLASSIC_CATEGORIES if category not in single}
    plain = effective_safety(threshold=threshold, exceptions=single)
    assert effective_safety(threshold=threshold, exceptions={**same, **single}) == plain
