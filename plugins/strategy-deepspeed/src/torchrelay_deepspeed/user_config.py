"""Reads what the user gave for a configuration, in whatever form. Imports no torch."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from typing import Any

from torchrelay.errors import ConfigurationError
from torchrelay_deepspeed.config import DeepSpeedConfig, Preset
from torchrelay_deepspeed.raw import RawConfig, merged, plain
from torchrelay_deepspeed.rules import check

VARIABLE = "TORCHRELAY_DEEPSPEED_CONFIG"
"""Environment variable that names a file with DeepSpeed's own configuration, for aliases."""

MAPPING = "the configuration given to DeepSpeedStrategy"

DECIDED_BY_THE_ALIAS = (
    "zero_optimization.stage",
    "zero_optimization.offload_optimizer.device",
    "zero_optimization.offload_param.device",
)
"""What the name of an alias says, so that a file may not say otherwise."""


def read(
    config: DeepSpeedConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> RawConfig:
    """DeepSpeed's own configuration, checked.

    Without a configuration, and under an alias, the file that TORCHRELAY_DEEPSPEED_CONFIG names is read; without one
    it is stage 2.

    Args:
        config: fields, DeepSpeed's own configuration, or the path of a JSON file with it.

    Raises:
        ConfigurationError: there is no such file, it is no JSON, it has keys that DeepSpeed does not know, it asks for
            what cannot be, or it contradicts the alias.
    """
    if config is None:
        return check(_from_environment() or _fields(DeepSpeedConfig()))
    # Called without functools in between, whose frame would be named as the place of an error.
    return check(_read.dispatch(type(config))(config))


@functools.singledispatch
def _read(config: object) -> RawConfig:
    raise ConfigurationError(
        f"DeepSpeedStrategy(config={config!r}): a configuration is a DeepSpeedConfig, a dict as DeepSpeed has it, or "
        "the path of a JSON file"
    )


@_read.register
def _fields(config: DeepSpeedConfig) -> RawConfig:
    return RawConfig(config.as_dict(), "DeepSpeedConfig")


@_read.register
def _preset(config: Preset) -> RawConfig:
    file = _from_environment()
    own = RawConfig(config.as_dict(), f"strategy={config.alias!r}")
    if file is None:
        return own
    for path in DECIDED_BY_THE_ALIAS:
        if None not in (own.get(path), file.get(path)) and own.get(path) != file.get(path):
            raise ConfigurationError(
                f'strategy={config.alias!r} stands for "{path}": {own.get(path)!r}, but {file.says(path)}; '
                'write strategy="deepspeed" to follow the file, or unset the variable'
            )
    return RawConfig(merged(own.values, file.values), f"{own.where} with {file.where}")


@_read.register(Mapping)
def _mapping(config: Mapping[str, Any]) -> RawConfig:
    return RawConfig(plain(config), MAPPING)


@_read.register(str)
@_read.register(os.PathLike)
def _file(config: str | os.PathLike[str]) -> RawConfig:
    path = os.fspath(config)
    return RawConfig(_load(path, path), path)


def _from_environment() -> RawConfig | None:
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    where = f"{path} ({VARIABLE})"
    return RawConfig(_load(path, where), where)


def _load(path: str, where: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file, object_pairs_hook=_once)
    except OSError as error:
        raise ConfigurationError(
            f"DeepSpeed's configuration {where} cannot be read: {error.strerror}; correct the path"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"DeepSpeed's configuration {where} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except _TwiceError as error:
        raise ConfigurationError(
            f'DeepSpeed\'s configuration {where} has the key "{error}" twice in one section; keep one'
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"DeepSpeed's configuration {where} is no text in UTF-8 (byte {error.start}); save it as JSON"
        ) from error
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"DeepSpeed's configuration {where} holds a {type(values).__name__}; it has to be an object: {{...}}"
        )
    return values


class _TwiceError(Exception):
    """A section has this key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, whose keys must differ: JSON itself would keep the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in names if names.count(key) > 1))
    return values
