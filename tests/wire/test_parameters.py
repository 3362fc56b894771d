from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidParameterError
from sfumato.wire.parameters import Parameters

READERS = ("text", "optional_integer", "boolean", "seconds", "mapping", "sequence")
LONE_SURROGATE = "\ud800"


def read(kind: str, value: Any) -> Any:
    if kind == "choice":
        return Parameters({"p": value}).choice("p", ("png", "jpeg"))
    return getattr(Parameters({"p": value}), kind)("p")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("text", "a", "a"),
        ("text", "", ""),
        ("text", None, None),
        ("choice", "PNG ", "png"),
        ("choice", None, None),
        ("optional_integer", 3, 3),
        ("optional_integer", "3", 3),
        ("optional_integer", " -3 ", -3),
        ("optional_integer", 3.0, 3),
        ("optional_integer", None, None),
        ("boolean", True, True),
        ("boolean", False, False),
        ("boolean", None, False),
        ("boolean", "TRUE", True),
        ("boolean", "on", True),
        ("boolean", "1", True),
        ("boolean", "false", False),
        ("boolean", " No ", False),
        ("boolean", "", False),
        ("seconds", 0, 0.0),
        ("seconds", 1.5, 1.5),
        ("seconds", "60", 60.0),
        ("seconds", None, None),
        ("mapping", {"a": 1}, {"a": 1}),
        ("mapping", '{"a":1}', {"a": 1}),
        ("mapping", "null", {}),
        ("mapping", None, {}),
        ("sequence", [1], [1]),
        ("sequence", (1,), (1,)),
        ("sequence", "[1]", [1]),
        ("sequence", None, ()),
    ],
)
def test_values_and_their_strings_are_read(kind: str, value: Any, expected: Any) -> None:
    found = read(kind, value)
    assert found == expected
    assert type(found) is type(expected)


REFUSED: dict[str, tuple[Any, ...]] = {
    "text": (1, True, [], {}, b"x", LONE_SURROGATE),
    "choice": ("gif", "", 1, LONE_SURROGATE),
    "optional_integer": ("", "x", "1.0", "1e3", "--1", "²", 1.5, True, [], "9" * 21, float("inf"), float("nan")),
    "boolean": (1, 0, "maybe", [], 1.0),
    "seconds": (-1, "-1", "x", "", True, "nan", "inf", [], {}, 10**400),
    "mapping": ([], "[]", "x", 5, "", "[" * 100_000, LONE_SURROGATE, "5"),
    "sequence": ({}, "{}", "x", 5, "", "[" * 100_000, LONE_SURROGATE),
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in REFUSED.items() for value in values])
def test_everything_else_is_refused_by_name(kind: str, value: Any) -> None:
    with pytest.raises(InvalidParameterError, match=r"^Invalid value for 'p': expected ") as caught:
        read(kind, value)
    assert caught.value.param == "p"


def test_a_default_stands_in_for_what_is_absent() -> None:
    given_fields = Parameters({"n": "2", "m": None})
    assert [given_fields.integer(name, 7) for name in ("n", "m", "o")] == [2, 7, 7]


def test_what_nobody_read_is_left() -> None:
    fields = Parameters({"a": 1, "b": 2, "c": None, "d": 4}, prefix="cache.")
    fields.take("a")
    fields.skip("d", "e")
    assert fields.rest() == ["cache.b"]


def test_a_prefix_stands_before_the_name() -> None:
    with pytest.raises(InvalidParameterError, match=r"'cache\.ttl'") as caught:
        Parameters({"ttl": "x"}, prefix="cache.").seconds("ttl")
    assert caught.value.param == "cache.ttl"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=12)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*READERS, "choice"]), json_values)
@settings(max_examples=400)
def test_any_value_is_read_or_refused(kind: str, value: Any) -> None:
    with contextlib.suppress(InvalidParameterError):
        read(kind, value)
