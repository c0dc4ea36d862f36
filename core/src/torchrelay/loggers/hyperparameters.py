"""Hyper-parameters as plain data that a file or a table can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def plain(params: Any) -> dict[str, Any]:
    """Hyper-parameters by name: those of a mapping or a namespace; the rest of what they hold as text if need be."""
    items = params.items() if isinstance(params, Mapping) else vars(params).items()
    return {str(name): _value(value) for name, value in items}


def flat(params: Any) -> dict[str, bool | int | float | str]:
    """The same on one level, `optimizer/lr` for `{"optimizer": {"lr": ...}}`."""
    found: dict[str, bool | int | float | str] = {}
    for name, value in plain(params).items():
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": each for inner, each in flat(value).items()}
        else:
            found[name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


def as_yaml(params: Any) -> str:
    """The same as the text of a YAML file, of whose language JSON is a part."""
    return json.dumps(plain(params), indent=2) + "\n"


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return [_value(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
