"""Typed reading of loosely typed parameters: JSON values, or form fields in which everything is a string."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sfumato.errors import InvalidParameterError

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off", "")
_MAX_NAME_CHARS = 100


class Parameters:
    """A mapping of parameters that remembers which were read, so that the rest can be refused.

    Args:
        fields: The parameters; null counts as absent.
        prefix: Written before a name in messages.
    """

    def __init__(self, fields: Mapping[str, Any], *, prefix: str = "") -> None:
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._read: set[str] = set()
        self._prefix = prefix

    def take(self, name: str) -> Any:
        """Return a value as it came, None when absent."""
        self._read.add(name)
        return self._fields.get(name)

    def skip(self, *names: str) -> None:
        """Count parameters as read without looking at them."""
        self._read.update(names)

    def rest(self) -> list[str]:
        """List the names that nobody read."""
        return [f"{self._prefix}{name}" for name in self._fields if name not in self._read]

    def refuse_rest(
        self, advice: str = "Leave it out.", *, drop_unknown: bool = False, before: Sequence[str] = ()
    ) -> None:
        """Refuse the first name that nobody read; name those in *before* first.

        Raises:
            InvalidParameterError: There is one, and unknown ones are not to be dropped.
        """
        unknown = [*before, *self.rest()]
        if unknown and not drop_unknown:
            # A name is the client's text: as long as it likes, and not always valid Unicode.
            name = unknown[0][:_MAX_NAME_CHARS].encode(errors="replace").decode()
            raise InvalidParameterError(
                f"Unknown parameter: '{name}'. {advice}", param=name, openai_code="unknown_parameter"
            )

    def text(self, name: str) -> str | None:
        """Return a string."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        try:
            value.encode()
        except UnicodeEncodeError:
            # Half a surrogate pair, which some JSON readers let through, cannot be sent, hashed or logged.
            raise self._wrong(name, "valid Unicode text") from None
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """Return one of *allowed*, in any case."""
        value = self.text(name)
        if value is None:
            return None
        word = value.strip().lower()
        if word in allowed:
            return word
        raise self._wrong(name, f"one of {', '.join(allowed)}")

    def optional_integer(self, name: str) -> int | None:
        """Return an integer, also from its decimal string."""
        value = self.take(name)
        if isinstance(value, str):
            word = value.strip()
            value = int(word) if word.removeprefix("-").isdecimal() and len(word) <= 20 else value
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise self._wrong(name, "an integer")

    def integer(self, name: str, default: int) -> int:
        """Return an integer, *default* when absent."""
        value = self.optional_integer(name)
        return default if value is None else value

    def boolean(self, name: str) -> bool:
        """Return a boolean, also from its usual strings; False when absent."""
        value = self.take(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        if isinstance(value, str) and value.strip().lower() in _TRUE + _FALSE:
            return value.strip().lower() in _TRUE
        raise self._wrong(name, "true or false")

    def seconds(self, name: str) -> float | None:
        """Return a duration in seconds, zero or more."""
        value = self.take(name)
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and number >= 0:
            return number
        raise self._wrong(name, "a number of seconds, zero or more")

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object, also from its JSON text; empty when absent."""
        value = self._structured(name)
        if value is None or isinstance(value, Mapping):
            return value or {}
        raise self._wrong(name, "an object")

    def sequence(self, name: str) -> Sequence[Any]:
        """Return a list, also from its JSON text; empty when absent."""
        value = self._structured(name)
        if value is None or isinstance(value, list | tuple):
            return value or ()
        raise self._wrong(name, "a list")

    def _structured(self, name: str) -> Any:
        value = self.take(name)
        if not isinstance(value, str):
            return value
        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            raise self._wrong(name, "JSON") from None

    def _wrong(self, name: str, expected: str) -> InvalidParameterError:
        param = f"{self._prefix}{name}"
        return InvalidParameterError(f"Invalid value for '{param}': expected {expected}.", param=param)
