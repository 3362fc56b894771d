"""JSON to request messages, with the messages of Google's JSON-to-protobuf transcoder when that fails.

A field is taken in camelCase or snake_case; a single value stands for a list of one; null is absent; enums, int32 and
base64 are checked. Every violation of a body is reported at once, as Google does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import pybase64
from msgspec import inspect

from sfumato.emulator.schema import NESTED_NAMES, PAYLOADS, Message, Part
from sfumato.emulator.statuses import GoogleError, bad_request

_PAYLOAD_RECEIVED = "Invalid JSON payload received."
_EXCERPT_CHARS = 40
_MALFORMED = "JSON is malformed: "
_BYTE = re.compile(r" \(byte (\d+)\)$")
_INT32 = re.compile(r"-?\d{1,10}(\.0+)?")

M = TypeVar("M", bound=Message)


def parse_json(body: bytes) -> Any:
    """Parse *body*; an empty one is the empty message.

    Raises:
        GoogleError: 400, with Google's wording and an excerpt at the fault.
    """
    if not body.strip():
        return {}
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise _unreadable("Message too deep. Max recursion depth reached for key.") from None
    except UnicodeDecodeError:
        raise _unreadable("Encountered non UTF-8 code points.") from None
    except msgspec.DecodeError as error:
        found = _BYTE.search(str(error))
        if found is None:
            raise _unreadable("Unexpected end of string.", body, len(body)) from None
        reason = str(error)[: found.start()].removeprefix(_MALFORMED)
        raise _unreadable(f"{reason[:1].upper()}{reason[1:]}.", body, int(found[1])) from None


def read_message(cls: type[M], value: Any, *, package: str) -> M:
    """Read parsed JSON as the message *cls*.

    Args:
        cls: The message.
        value: Parsed JSON.
        package: Stands before the names of types in messages.

    Raises:
        GoogleError: 400 naming every unknown field and every value of a wrong type.
    """
    if not isinstance(value, dict):
        raise _unreadable('Unknown name "": Root element must be a message.')
    reader = _Reader(package)
    message = reader.message(cls, value, "")
    if reader.violations:
        raise bad_request(reader.violations)
    return message


def decode_base64(text: str) -> bytes | None:
    """Decode base64 in either alphabet, padded or not; None when it is not base64."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        pass
    plain = re.sub(r"\s", "", text).rstrip("=")
    altchars = "-_" if re.search("[-_]", plain) else None
    try:
        return pybase64.b64decode(plain + "=" * (-len(plain) % 4), altchars=altchars, validate=True)
    except ValueError:
        return None


def _unreadable(reason: str, body: bytes = b"", position: int = 0) -> GoogleError:
    text = f"{_PAYLOAD_RECEIVED} {reason}"
    if body:
        start = max(0, position - _EXCERPT_CHARS)
        before = body[start:position].decode(errors="replace").rpartition("\n")[2]
        after = body[position : position + _EXCERPT_CHARS].decode(errors="replace").partition("\n")[0]
        text += f"\n{before}{after}\n{' ' * len(before)}^"
    return bad_request([("", text)])


@functools.cache
def _fields(cls: type[Message]) -> Mapping[str, tuple[str, inspect.Type]]:
    """Return (field, type) by both JSON spellings; Optional is unwrapped, since null is absence everywhere."""
    info = inspect.type_info(cls)
    names: dict[str, tuple[str, inspect.Type]] = {}
    for field in info.fields if isinstance(info, inspect.StructType) else ():
        kind = field.type
        if isinstance(kind, inspect.UnionType):
            kind = next(option for option in kind.types if not isinstance(option, inspect.NoneType))
        camel = re.sub(r"_(\w)", lambda match: match[1].upper(), field.name)
        names[camel] = names[field.name] = (field.name, kind)
    return names


class _Reader:
    """One walk through a body, gathering its violations as (field path, description)."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.violations: list[tuple[str, str]] = []

    def message(self, cls: type[M], value: dict[str, Any], path: str) -> M:
        fields = _fields(cls)
        values: dict[str, Any] = {}
        for name, item in value.items():
            known = fields.get(name)
            if known is None:
                self._unknown(name, path, "Cannot find field.")
                continue
            if item is None:
                continue
            field, kind = known
            if cls is Part and field in PAYLOADS and any(payload in values for payload in PAYLOADS):
                already = "(oneof), oneof field 'data' is already set."
                self._refuse(path, f"Invalid value at '{path}' {already} Cannot set '{name}'")
            elif isinstance(item, list) and not isinstance(kind, inspect.VarTupleType | inspect.AnyType):
                self._unknown(name, path, "Proto field is not repeating, cannot start list.")
            else:
                values[field] = self._value(kind, item, f"{path}.{field}" if path else field)
        return cls(**values)

    def _value(self, kind: inspect.Type, item: Any, path: str) -> Any:
        match kind:
            case inspect.VarTupleType(item_type=inner):
                items = item if isinstance(item, list) else [item]
                return tuple(self._value(inner, one, f"{path}[{index}]") for index, one in enumerate(items))
            case inspect.StructType(cls=cls) if issubclass(cls, Message):
                if isinstance(item, dict):
                    return self.message(cls, item, path)
                return self._mistyped(self._type_name(cls), item, path)
            case inspect.EnumType(cls=cls):
                found = next((member for member in cls if member.value == item), None)
                return self._mistyped(self._type_name(cls), item, path) if found is None else found
            case inspect.BytesType():
                data = decode_base64(item) if isinstance(item, str) else None
                return self._undecodable(item, path) if data is None else data
            case _:
                return self._scalar(kind, item, path)

    def _scalar(self, kind: inspect.Type, item: Any, path: str) -> Any:
        match kind:
            case inspect.StrType():
                return item if isinstance(item, str) else self._mistyped("TYPE_STRING", item, path)
            case inspect.BoolType():
                return item if isinstance(item, bool) else self._mistyped("TYPE_BOOL", item, path)
            case inspect.IntType():
                # proto3 JSON takes 7, 7.0 and "7" for an int32.
                spelled = "" if isinstance(item, bool) else str(item)
                number = int(float(spelled)) if _INT32.fullmatch(spelled) else 2**31
                return number if -(2**31) <= number < 2**31 else self._mistyped("TYPE_INT32", item, path)
            case inspect.FloatType():
                numeric = isinstance(item, int | float) and not isinstance(item, bool)
                return float(item) if numeric else self._mistyped("TYPE_FLOAT", item, path)
            case inspect.DictType() if not isinstance(item, dict):
                return self._mistyped("type.googleapis.com/google.protobuf.Struct", item, path)
            case _:
                return item

    def _mistyped(self, type_name: str, item: Any, path: str) -> None:
        shown = "" if isinstance(item, dict | list) else f", {msgspec.json.encode(item).decode()[:_EXCERPT_CHARS]}"
        self._refuse(path, f"Invalid value at '{path}' ({type_name}){shown}")

    def _undecodable(self, item: Any, path: str) -> None:
        if not isinstance(item, str):
            return self._mistyped("TYPE_BYTES", item, path)
        shown = item if len(item) <= _EXCERPT_CHARS else f"{item[:_EXCERPT_CHARS]}…"
        return self._refuse(path, f"Invalid value at '{path}' (TYPE_BYTES), Base64 decoding failed for \"{shown}\"")

    def _unknown(self, name: str, path: str, reason: str) -> None:
        place = f" at '{path}'" if path else ""
        self._refuse(path, f'{_PAYLOAD_RECEIVED} Unknown name "{name}"{place}: {reason}')

    def _refuse(self, path: str, description: str) -> None:
        self.violations.append((path, description))

    def _type_name(self, cls: type) -> str:
        return self.package + NESTED_NAMES.get(cls.__name__, cls.__name__)
