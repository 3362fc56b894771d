"""An operator's own prices, in place of those in the models' rows.

::

    ["gemini-3-pro-image"]           # what is left out stays as it is in the row
    input_per_million = 1.6          # USD per million tokens
    text_output_per_million = 9.6
    image_output_per_million = 96.0
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from typing import Any

from sfumato.errors import ConfigurationError
from sfumato.images.models import FAMILIES, ModelFamily, Prices

_FIELDS = ("input_per_million", "text_output_per_million", "image_output_per_million")
_OWN = "the operator's prices file"


def parse_prices(text: str) -> Mapping[str, Prices]:
    """Read a prices file; return the prices of the models that it names.

    Raises:
        ConfigurationError: It is no TOML, or names a model, a field or a price that cannot be.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"This is no TOML: {error}.") from None
    families = {family.name: family for family in FAMILIES}
    prices: dict[str, Prices] = {}
    for name, fields in tables.items():
        if any(family.startswith(f"{name}.") for family in families):
            raise ConfigurationError('Quote a name that holds a dot: ["gemini-3.1-flash-image"].')
        if name not in families:
            raise ConfigurationError(f"There is no model '{name}'. {_advice(name, list(families))}")
        if not isinstance(fields, dict):
            raise ConfigurationError(f"'{name}' must be a table of prices: [\"{name}\"].")
        prices[name] = _prices(families[name], fields)
    return prices


def _prices(family: ModelFamily, fields: Mapping[str, Any]) -> Prices:
    for field, value in fields.items():
        if field not in _FIELDS:
            raise ConfigurationError(f"'{family.name}' has no price '{field}'. {_advice(field, list(_FIELDS))}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < math.inf:
            raise ConfigurationError(f"'{field}' of '{family.name}' must be a number of US dollars, 0 or more.")
    given = {field: float(value) for field, value in fields.items()}
    return dataclasses.replace(family.prices, **given, source=_OWN, seen=None)


def _advice(given: str, known: list[str]) -> str:
    closest = difflib.get_close_matches(given, known, 1)
    return f"Did you mean '{closest[0]}'?" if closest else f"Use one of {', '.join(known)}."
