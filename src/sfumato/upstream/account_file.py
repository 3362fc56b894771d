"""The accounts of an installation: API keys from variables, and the TOML file that names the rest.

::

    [[accounts]]
    label = "a"
    key = "..."             # or key_env = "NAME" of a variable
    weight = 2
    rpm = 60

    [[accounts]]
    label = "vx"
    project = "my-project"
    location = "global"     # or us-central1, us, eu
    credentials_file = "service-account.json"   # absent: Application Default Credentials
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, TypeAdapter, ValidationError

from sfumato.errors import ConfigurationError
from sfumato.setting_types import BaseUrl
from sfumato.settings import Settings, variable_names
from sfumato.upstream.accounts import Account

DEFAULT_LOCATION = "global"
_FIELDS = (
    "label",
    "key",
    "key_env",
    "project",
    "location",
    "credentials_file",
    "api_base",
    "weight",
    "rpm",
)
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WEIGHTS = (0.001, 1_000_000)
_MAX_RPM = 1_000_000
_PLACE = re.compile(r"at line \d+, column \d+|at end of document")
_VARIABLE = variable_names("accounts_file")[0]
_KEY_VARIABLE, _KEYS_VARIABLE = variable_names("api_key")[0], variable_names("api_keys")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    """One account of the file: a key of the Gemini API, or a project on Vertex AI.

    Attributes:
        label: Names it in logs, metrics and errors.
        key: The API key, None for Vertex AI.
        project: The Google Cloud project, None for the Gemini API.
        location: Where Vertex AI makes the pictures.
        credentials_file: Service account's JSON; None for Application Default Credentials.
        api_base: Another address than the backend's own.
        weight: Its share of the work beside others.
        rpm: Requests per minute and model, None for no bound of ours.
    """

    label: str
    key: SecretStr | None = None
    project: str | None = None
    location: str = DEFAULT_LOCATION
    credentials_file: Path | None = None
    api_base: str | None = None
    weight: float = 1.0
    rpm: int | None = None


def build_accounts(settings: Settings, environ: Mapping[str, str] | None = None) -> tuple[Account, ...]:
    """Build every account that the configuration names, in its order; nothing is connected to.

    Args:
        settings: The configuration.
        environ: Where ``key_env`` looks, the process's environment by default.

    Raises:
        ConfigurationError: The file or an account is wrong; the message names the variable and the account's label,
            never a key or a path.
    """
    rows = [AccountRow(label=label, key=secret) for label, secret in settings.accounts]
    _refuse_key_in_both(settings)
    if settings.accounts_file is not None:
        # The file names the variable, so no setting can hold it.
        more = load(settings.accounts_file, environ=os.environ if environ is None else environ)
        _refuse_twins(more, beside=rows)
        rows += more
    return tuple(_build(row, settings) for row in rows)


def load(path: Path, *, environ: Mapping[str, str]) -> tuple[AccountRow, ...]:
    """Read the file; a relative ``credentials_file`` in it starts from its directory.

    Raises:
        ConfigurationError: It cannot be read, or `parse` refuses it.
    """
    try:
        # Editors on Windows write a mark at the start.
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise _wrong(f"the file cannot be read ({reason})") from None
    except UnicodeDecodeError:
        raise _wrong("the file is not UTF-8") from None
    return parse(text, directory=path.parent, environ=environ)


def parse(text: str, *, directory: Path, environ: Mapping[str, str]) -> tuple[AccountRow, ...]:
    """Read the rows of an accounts file.

    Raises:
        ConfigurationError: The text is not TOML, or an account is incomplete, contradicts itself or repeats another.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Only the place: the rest of the message may repeat a piece of a key.
        place = _PLACE.search(str(error))
        raise _wrong(f"the file is not valid TOML {place[0] if place else ''}".rstrip()) from None
    except (ValueError, RecursionError):
        # A number of thousands of digits, or brackets that deep.
        raise _wrong("the file has a value that is too long or too deep") from None
    _refuse_unknown(document, ("accounts",), "the file")
    tables = document.get("accounts")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise _wrong("the file has no [[accounts]]")
    rows = [_row(table, place, directory, environ) for place, table in enumerate(tables, start=1)]
    _refuse_twins(rows)
    return tuple(rows)


def _row(table: dict[str, Any], place: int, directory: Path, environ: Mapping[str, str]) -> AccountRow:
    label = table.get("label")
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise _wrong(f"account number {place} needs a 'label' of letters, digits, '.', '_' and '-' only, at most 64")
    _refuse_unknown(table, _FIELDS, f"account '{label}'")
    if sum(name in table for name in ("key", "key_env", "project")) != 1:
        raise _wrong("it needs one of 'key', 'key_env' and 'project'", label)
    if "project" not in table:
        for name in ("location", "credentials_file"):
            if name in table:
                raise _wrong(f"'{name}' goes with 'project' only", label)
    return AccountRow(
        label=label,
        key=_key(table, label, environ),
        project=_text(table, "project", label),
        location=_text(table, "location", label) or DEFAULT_LOCATION,
        credentials_file=directory / file if (file := _text(table, "credentials_file", label)) else None,
        api_base=_api_base(table, label),
        weight=_weight(table, label),
        rpm=_rpm(table, label),
    )


def _key(table: dict[str, Any], label: str, environ: Mapping[str, str]) -> SecretStr | None:
    name = _text(table, "key_env", label)
    if name is None:
        key = _text(table, "key", label)
        return SecretStr(key) if key else None
    key = environ.get(name, "").strip()
    if not key:
        raise _wrong(f"the variable {name} that 'key_env' names is not set", label)
    return SecretStr(key)


def _text(table: dict[str, Any], name: str, label: str) -> str | None:
    if name not in table:
        return None
    value = table[name]
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise _wrong(f"'{name}' must be a text that is not empty", label)
    return text


def _api_base(table: dict[str, Any], label: str) -> str | None:
    if "api_base" not in table:
        return None
    try:
        base: str = TypeAdapter(BaseUrl).validate_python(table["api_base"])
    except ValidationError:
        raise _wrong("'api_base' must be http(s)://host, without user name, query or fragment", label) from None
    return base


def _weight(table: dict[str, Any], label: str) -> float:
    value = table.get("weight", 1.0)
    least, most = _WEIGHTS
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _wrong(f"'weight' must be a number from {least} to {most}", label)
    return float(value)


def _rpm(table: dict[str, Any], label: str) -> int | None:
    value = table.get("rpm")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_RPM):
        raise _wrong(f"'rpm' must be an integer from 1 to {_MAX_RPM}", label)
    return value


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in table:
        if name not in known:
            closest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigurationError(f"{_VARIABLE}: {where}: '{name[:100]}' is unknown. Did you mean '{closest}'?")


def _refuse_key_in_both(settings: Settings) -> None:
    key = settings.api_key.get_secret_value() if settings.api_key else None
    for label, secret in settings.api_keys:
        if secret.get_secret_value() == key:
            raise ConfigurationError(
                f"{_KEYS_VARIABLE}: account '{label}' has the key of {_KEY_VARIABLE}, and with it the same quota."
            )


def _refuse_twins(rows: Sequence[AccountRow], *, beside: Sequence[AccountRow] = ()) -> None:
    labels = {row.label for row in beside}
    owners: dict[object, str] = {
        row.key.get_secret_value(): f"'{row.label}' of {_KEY_VARIABLE if row.label == 'default' else _KEYS_VARIABLE}"
        for row in beside
        if row.key
    }
    for row in rows:
        if row.label in labels:
            raise _wrong("another account has this label", row.label)
        labels.add(row.label)
        what = "key"
        quota: object = row.key.get_secret_value() if row.key else None
        if row.project is not None:
            what, quota = "project and location", (row.project, row.location)
        if quota in owners:
            raise _wrong(f"account {owners[quota]} has the same {what}, and with it the same quota", row.label)
        owners[quota] = f"'{row.label}'"


def _wrong(what: str, label: str | None = None) -> ConfigurationError:
    whose = f"account '{label}': " if label else ""
    return ConfigurationError(f"{_VARIABLE}: {whose}{what}.")


def _build(row: AccountRow, settings: Settings) -> Account:
    if row.key is not None:
        return Account.at(
            row.label,
            row.key.get_secret_value(),
            row.api_base or settings.api_base,
            settings.api_version,
            weight=row.weight,
            rpm=row.rpm,
        )
    # It loads an extra.
    from sfumato.upstream.vertex import vertex_account  # noqa: PLC0415

    assert row.project is not None  # noqa: S101  # a row has a key or a project
    return vertex_account(
        row.label,
        project=row.project,
        location=row.location,
        credentials_file=row.credentials_file,
        # Not the configured base: that one is the Gemini API's.
        api_base=row.api_base,
        weight=row.weight,
        rpm=row.rpm,
    )
