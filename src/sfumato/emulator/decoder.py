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

_PACKAGE = "type.googleapis.com/google.ai.generativelanguage.v1beta."
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


def read_message(cls: type[M], value: Any) -> M:
    """Read parsed JSON as the message *cls*.

    Raises:
        GoogleError: 400 naming every unknown field and every value of a wrong type.
    """
    violations: list[tuple[str, str]] = []
    if not isinstance(value, dict):
        raise _unreadable('Unknown name "": Root element must be a message.')
    message = _message(cls, value, "", violations)
    if violations:
        raise bad_request(violations)
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


def _message(cls: type[M], value: dict[str, Any], path: str, violations: list[tuple[str, str]]) -> M:
    fields = _fields(cls)
    values: dict[str, Any] = {}
    for name, item in value.items():
        known = fields.get(name)
        if known is None:
            violations.append(_unknown(name, path, "Cannot find field."))
            continue
        if item is None:
            continue
        field, kind = known
        if cls is Part and field in PAYLOADS and any(payload in values for payload in PAYLOADS):
            text = (
                f"Invalid value at '{path}' (oneof), oneof field 'data' is already set. Cannot set '{name}'"  # as seen
            )
            violations.append((path, text))
            continue
        values[field] = _value(kind, item, name, path, field, violations)
    return cls(**values)


def _value(
    kind: inspect.Type, item: Any, name: str, parent: str, field: str, violations: list[tuple[str, str]]
) -> Any:
    path = f"{parent}.{field}" if parent else field
    if isinstance(kind, inspect.VarTupleType):
        items = item if isinstance(item, list) else [item]
        return tuple(_single(kind.item_type, one, f"{path}[{i}]", violations) for i, one in enumerate(items))
    if isinstance(item, list) and not isinstance(kind, inspect.AnyType):
        violations.append(_unknown(name, parent, "Proto field is not repeating, cannot start list."))
        return None
    return _single(kind, item, path, violations)


def _single(kind: inspect.Type, item: Any, path: str, violations: list[tuple[str, str]]) -> Any:
    if isinstance(kind, inspect.StructType):
        if isinstance(item, dict):
            return _message(kind.cls, item, path, violations)
        return _mistyped(_type_name(kind.cls), item, path, violations)
    if isinstance(kind, inspect.EnumType):
        if isinstance(item, str) and item in kind.cls.__members__.values():
            return kind.cls(item)
        return _mistyped(_type_name(kind.cls), item, path, violations)
    if isinstance(kind, inspect.BytesType):
        data = decode_base64(item) if isinstance(item, str) else None
        return data if data is not None else _undecodable(item, path, violations)
    return _scalar(kind, item, path, violations)


def _scalar(kind: inspect.Type, item: Any, path: str, violations: list[tuple[str, str]]) -> Any:
    match kind:
        case inspect.StrType():
            return item if isinstance(item, str) else _mistyped("TYPE_STRING", item, path, violations)
        case inspect.BoolType():
            return item if isinstance(item, bool) else _mistyped("TYPE_BOOL", item, path, violations)
        case inspect.IntType():
            # proto3 JSON takes 7, 7.0 and "7" for an int32.
            spelled = str(item)
            if not isinstance(item, bool) and _INT32.fullmatch(spelled):
                number = int(float(spelled))
                if -(2**31) <= number < 2**31:
                    return number
            return _mistyped("TYPE_INT32", item, path, violations)
        case inspect.FloatType():
            if isinstance(item, int | float) and not isinstance(item, bool):
                return float(item)
            return _mistyped("TYPE_FLOAT", item, path, violations)
        case inspect.DictType() if not isinstance(item, dict):
            return _mistyped("type.googleapis.com/google.protobuf.Struct", item, path, violations)
        case _:
            return item


def _type_name(cls: type) -> str:
    return _PACKAGE + NESTED_NAMES.get(cls.__name__, cls.__name__)


def _mistyped(type_name: str, item: Any, path: str, violations: list[tuple[str, str]]) -> None:
    shown = "" if isinstance(item, dict | list) else f", {msgspec.json.encode(item).decode()[:_EXCERPT_CHARS]}"
    violations.append((path, f"Invalid value at '{path}' ({type_name}){shown}"))


def _undecodable(item: Any, path: str, violations: list[tuple[str, str]]) -> None:
    if not isinstance(item, str):
        return _mistyped("TYPE_BYTES", item, path, violations)
    shown = item if len(item) <= _EXCERPT_CHARS else f"{item[:_EXCERPT_CHARS]}…"
    violations.append((path, f"Invalid value at '{path}' (TYPE_BYTES), Base64 decoding failed for \"{shown}\""))
    return None


def _unknown(name: str, path: str, reason: str) -> tuple[str, str]:
    place = f" at '{path}'" if path else ""
    return path, f'{_PAYLOAD_RECEIVED} Unknown name "{name}"{place}: {reason}'
