"""How the text of a variable becomes a value: the types of `Settings`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from sfumato.errors import InvalidParameterError
from sfumato.images.safety import Threshold, parse_category, parse_threshold

_BASE_URL = re.compile(r"https?://[^/?#@\s]+(/[^?#@\s]*)?")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
# Labels stand in logs, metrics and cache scopes: they must be words there, and never an address.
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Labelled(NamedTuple):
    """A secret and the label by which logs, metrics and tenants name it."""

    label: str
    secret: SecretStr


def _labelled(value: object) -> object:
    """Read ``label:key,label:key``; an entry without a label is named by its place."""
    if not isinstance(value, str):
        return value
    pairs = []
    for place, item in enumerate(filter(None, (part.strip() for part in value.split(","))), start=1):
        label, colon, secret = item.partition(":")
        if not colon:
            label, secret = f"key-{place}", item
        if not label.strip() or not secret.strip():
            raise ValueError("expected label:key,label:key")
        pairs.append(Labelled(label.strip(), SecretStr(secret.strip())))
    return tuple(pairs)


def _checked_labels(pairs: tuple[Labelled, ...]) -> tuple[Labelled, ...]:
    if not all(_LABEL.fullmatch(label) for label, _ in pairs):
        raise ValueError("a label has letters, digits, '.', '_' and '-' only, at most 64")
    if len({label for label, _ in pairs}) < len(pairs):
        raise ValueError("every label must be different")
    if len({secret.get_secret_value() for _, secret in pairs}) < len(pairs):
        raise ValueError("every key must be different: one key cannot have two labels")
    return pairs


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _secrets(value: object) -> object:
    return tuple(SecretStr(word) for word in _words(value)) if isinstance(value, str) else value  # type: ignore[attr-defined]  # _words of a str is a tuple


def _threshold(value: object) -> object:
    try:
        return parse_threshold(value, param="safety level")
    except InvalidParameterError as error:
        raise ValueError(error.message) from None


def _thresholds(value: object) -> object:
    """Read ``HARASSMENT=HIGH,HATE_SPEECH=LOW``."""
    if not isinstance(value, str):
        return value
    try:
        pairs = [item.partition("=") for item in value.split(",") if item.strip()]
        # Those for pictures hold on Vertex AI only; whether an account is there is not known yet.
        wishes = {
            parse_category(c, param="category", backend="vertex"): parse_threshold(t, param="threshold")
            for c, _, t in pairs
        }
    except InvalidParameterError as error:
        raise ValueError(error.message) from None
    if len(wishes) < len(pairs):
        raise ValueError("every category must be named once")
    return wishes


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    for host in value:
        if not _HOST.fullmatch(host):
            raise ValueError("expected hosts such as images.example.com or images.example.com:8443, without a scheme")
    return value


def _base_url(value: str) -> str:
    if not _BASE_URL.fullmatch(value):
        raise ValueError("expected http(s)://host, without user name, query or fragment")
    return value


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _backend(value: object) -> object:
    return {"none": "noop"}.get(str(_lower(value)), _lower(value))


Number = Annotated[float, Field(allow_inf_nan=False)]
# Keys often come from files, with a newline at the end that no header can hold.
Secret = Annotated[SecretStr, BeforeValidator(_stripped)]
LabelledSecrets = Annotated[tuple[Labelled, ...], BeforeValidator(_labelled), AfterValidator(_checked_labels)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_secrets)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_words), AfterValidator(_hosts)]
ThresholdSetting = Annotated[Threshold, BeforeValidator(_threshold)]
Thresholds = Annotated[dict[str, Threshold], BeforeValidator(_thresholds)]
BaseUrl = Annotated[str, BeforeValidator(_stripped), AfterValidator(_base_url)]
TierSetting = Annotated[Literal["512", "1K", "2K", "4K"], BeforeValidator(_upper)]
CacheBackend = Annotated[Literal["memory", "filesystem", "redis", "s3", "noop"], BeforeValidator(_backend)]
CacheScope = Annotated[Literal["global", "tenant"], BeforeValidator(_lower)]
UrlMode = Annotated[Literal["data", "link"], BeforeValidator(_lower)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
