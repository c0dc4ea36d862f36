"""Hyper-parameters: the arguments of a constructor, kept in checkpoints so that the object can be made again."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import types
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pickle import PicklingError
from typing import Any, ClassVar, TypeVar, cast

import torch

from torchrelay.checkpoint.canonical import to_canonical
from torchrelay.checkpoint.torch_io import TorchCheckpointIO
from torchrelay.errors import CheckpointError, ConfigurationError

T = TypeVar("T", bound="HyperParameterMixin")

KEYWORDS = "kwargs"
"""The name under which arguments are kept that are passed one by one, as Lightning has it."""

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.Tensor,
    torch.dtype,
    torch.device,
)


class HyperParameters(dict[str, Any]):
    """Named values, to be had as attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"no hyper-parameter {name!r} was saved; there are: {', '.join(self) or 'none'}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class HyperParameterMixin:
    """Remembers the arguments of its constructor and makes the same object again from a checkpoint."""

    hparams_keys: ClassVar[tuple[str, str]] = ("hyper_parameters", "hparams_name")
    """Keys of a checkpoint: the values, and the argument that they are passed as ("kwargs" for one by one)."""

    _hparams: HyperParameters | None = None
    _hparams_initial: HyperParameters | None = None
    _hparams_name: str | None = None
    _log_hyperparams = False

    @property
    def hparams(self) -> HyperParameters:
        """What `save_hyperparameters` kept; what is changed here goes into checkpoints."""
        if self._hparams is None:
            self._hparams = HyperParameters()
        return self._hparams

    @property
    def hparams_initial(self) -> HyperParameters:
        """A copy of what `save_hyperparameters` kept, as it was then."""
        return copy.deepcopy(self._hparams_initial or HyperParameters())

    def save_hyperparameters(
        self,
        *names: Any,
        ignore: str | Sequence[str] | None = None,
        frame: types.FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Keep arguments of the constructor, to be called in it; those of a subclass's constructor count too.

        Args:
            names: which; all when there are none. Or one dict, Namespace or dataclass to keep in their place.
            ignore: which not.
            frame: of the call whose arguments to keep; the caller's when None.
            logger: whether loggers are told them.

        Raises:
            ConfigurationError: no argument has the name, or there is no constructor to see.
        """
        if frame is None:
            here = inspect.currentframe()
            frame = here.f_back if here is not None else None
        found = _arguments(self, frame)
        if len(names) == 1 and not isinstance(names[0], str):
            values = _as_mapping(names[0])
            self._hparams_name = next((n for n, v in found.items() if v is names[0]), None)
        else:
            values = _chosen(names, found, type(self).__name__)
            self._hparams_name = KEYWORDS
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        self.hparams.update({n: v for n, v in values.items() if n not in ignored})
        self._hparams_initial = copy.deepcopy(self._hparams)
        self._log_hyperparams = logger

    def hparams_to_log(self) -> Mapping[str, Any]:
        """What loggers are told."""
        return self.hparams_initial if self._log_hyperparams else {}

    def hparams_state(self) -> dict[str, Any]:
        """The entries of a checkpoint.

        Raises:
            CheckpointError: a value could not be loaded again without running pickled code.
        """
        check_plain(self.hparams, type(self).__name__)
        values, name = self.hparams_keys
        named = {name: self._hparams_name} if self._hparams_name else {}
        return {values: dict(self.hparams), **named}

    @classmethod
    def load_from_checkpoint(
        cls: type[T],
        checkpoint_path: Any,
        map_location: Any = None,
        strict: bool = True,
        weights_only: bool = True,
        **overrides: Any,
    ) -> T:
        """Make an object from a checkpoint: its constructor is given the hyper-parameters, then state is loaded.

        Args:
            checkpoint_path: file, or URL that fsspec knows; Lightning 2.x's files load as well.
            map_location: device of the tensors; the CPU when None.
            strict: refuse missing and unexpected names of parameters.
            weights_only: refuse checkpoints that carry pickled code; False only for files you trust.
            overrides: arguments of the constructor that take the place of hyper-parameters, or complete them.

        Raises:
            CheckpointError: there is no such file, or it is of another model.
            ConfigurationError: an argument of the constructor is missing, or it takes no such argument.
        """
        checkpoint = to_canonical(
            TorchCheckpointIO().load_checkpoint(
                checkpoint_path, map_location=map_location or "cpu", weights_only=weights_only
            )
        )
        made = cls(**_constructor_arguments(cls, checkpoint, overrides))
        made.load_from(checkpoint, strict=strict)
        return made

    def load_from(self, checkpoint: dict[str, Any], *, strict: bool = True) -> None:
        """Take up the state that a checkpoint has for an object just made."""


def check_plain(values: Any, owner: str) -> None:
    """Refuse hyper-parameters that a checkpoint loaded with `weights_only=True` could not have.

    Raises:
        CheckpointError: names the value, and what to allow or to leave out.
    """
    for path, value in _leaves(values, ""):
        reason = "" if type(value) in _PLAIN else _why_not_plain(value)
        if reason:
            name = path.lstrip(".")
            raise CheckpointError(
                f"the hyper-parameter {name!r} of {owner} is a {type(value).__name__}, which a checkpoint cannot hold "
                f'as plain data; leave it out: save_hyperparameters(ignore="{name.partition(".")[0]}"){reason}'
            )


def _why_not_plain(value: Any) -> str:
    """What to do about a value that loads only by running pickled code; "" for one that does not."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
    except (PicklingError, TypeError, AttributeError) as error:
        return f" (it cannot be pickled: {error})"
    file.seek(0)
    unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    if not unsafe:
        return ""
    return f", or allow it: torch.serialization.add_safe_globals([{', '.join(unsafe)}])"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and type(value) in (dict, HyperParameters):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif type(value) in (list, tuple, set):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}.{i}")
    else:
        yield path, value


def _arguments(instance: object, frame: types.FrameType | None) -> dict[str, Any]:
    """The arguments of the constructors of `instance` that are under way; a subclass's win over its base's."""
    found: dict[str, Any] = {}
    while frame is not None:
        names, _, keywords, local = inspect.getargvalues(frame)
        if names and frame.f_code.co_name == "__init__" and local.get(names[0]) is instance:
            found |= {name: local[name] for name in names[1:] if name in local}
            found |= local.get(keywords, {}) if keywords else {}
        frame = frame.f_back
    return found


def _chosen(names: Sequence[Any], found: Mapping[str, Any], owner: str) -> Mapping[str, Any]:
    if not names:
        return found
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ConfigurationError(
            f"save_hyperparameters: {owner}.__init__ has no argument {', '.join(map(repr, unknown))}; it has: "
            f"{', '.join(found) or 'none, or this was called outside of it'}"
        )
    return {name: found[name] for name in names}


def _as_mapping(container: Any) -> Mapping[str, Any]:
    if isinstance(container, Namespace):
        return vars(container)
    if isinstance(container, Mapping):
        return cast("Mapping[str, Any]", container)
    if dataclasses.is_dataclass(container) and not isinstance(container, type):
        return {f.name: getattr(container, f.name) for f in dataclasses.fields(container)}
    raise ConfigurationError(
        f"save_hyperparameters got a {type(container).__name__}; give names of arguments, or one dict, Namespace or "
        "dataclass"
    )


def _constructor_arguments(
    cls: type[HyperParameterMixin], checkpoint: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """What to give to the constructor: hyper-parameters where it takes them, and what the caller gives."""
    values_key, name_key = cls.hparams_keys
    kept = HyperParameters(checkpoint.get(values_key) or {})
    parameters = inspect.signature(cls).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    name = checkpoint.get(name_key)
    if name and name != KEYWORDS and name in parameters:
        kept.update({n: v for n, v in overrides.items() if n not in parameters})
        arguments = {name: kept} | {n: v for n, v in overrides.items() if n in parameters}
    else:
        arguments = {n: v for n, v in kept.items() if takes_any or n in parameters} | {**overrides}
    unknown = [n for n in arguments if not takes_any and n not in parameters]
    if unknown:
        raise ConfigurationError(
            f"{cls.__name__} takes no argument {', '.join(map(repr, unknown))}; it takes: "
            f"{', '.join(parameters) or 'none'}"
        )
    _refuse_missing(cls, parameters, arguments)
    return arguments


def _refuse_missing(
    cls: type, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]
) -> None:
    missing = [
        name
        for name, p in parameters.items()
        if name not in arguments
        and p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if missing:
        raise ConfigurationError(
            f"{cls.__name__} needs {', '.join(map(repr, missing))}, which the checkpoint does not hold; pass it: "
            f"{cls.__name__}.load_from_checkpoint(path, {', '.join(f'{n}=...' for n in missing)}), or call "
            "save_hyperparameters() in its __init__"
        )
