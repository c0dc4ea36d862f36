"""Units: the modules that FairScale's FullyShardedDataParallel wraps, and whose parameters it has made of whose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_WRAPPED = "_fsdp_wrapped_module"
_BETWEEN = (_WRAPPED, "_fpw_module")


@dataclass(frozen=True, eq=False)
class Place:
    """A parameter of a unit: a shard of one of the user's, or of several that were flattened.

    Attributes:
        unit: the wrapper.
        parameter: this rank's shard, padded to the size that all ranks have.
        names: of the user's parameters, in their order.
        shapes: of these.
        owners: the module that had each, and its key there.
    """

    unit: Any
    parameter: nn.Parameter
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def sizes(self) -> list[int]:
        """Numbers of elements."""
        return [shape.numel() for shape in self.shapes]

    def split(self, whole: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat tensor (at least as long as all of them) by the user's names."""
        pieces = torch.split(whole[: sum(self.sizes)], self.sizes)
        shaped = zip(self.names, self.shapes, pieces, strict=True)
        return {name: piece.view(shape).clone() for name, shape, piece in shaped}

    def shard(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """This rank's part of what is whole, in the order of the names, shaped as its parameter."""
        whole = torch.cat([piece.reshape(-1) for piece in pieces])
        if whole.numel() == self.parameter.numel():
            return whole.view(self.parameter.shape)
        part, _ = self.unit._get_shard(whole)  # noqa: SLF001 - it alone knows how it cuts
        shard: torch.Tensor = part
        return shard


def is_unit(module: nn.Module) -> bool:
    """Whether a module is FairScale's wrapper."""
    return any(name == _WRAPPED for name, _ in module.named_children())


def places(module: nn.Module, prefix: str = "") -> list[Place]:
    """The parameters of all units in a module.

    Args:
        module: a unit, or a module that holds some.
        prefix: what the names of the user's parameters are to be rid of.
    """
    return [
        place
        for path, unit in module.named_modules()
        if is_unit(unit)
        for place in _of_unit(unit, path, prefix)
    ]


def _of_unit(unit: Any, path: str, prefix: str) -> Iterator[Place]:
    # A unit without parameters has one empty list of names.
    for parameter, alone in zip(unit.params, unit._param_name_groups, strict=False):  # noqa: SLF001
        infos = getattr(parameter, "_param_infos", None)  # what a FlatParameter records
        if infos is None:
            keys, shapes = alone, [parameter._orig_size]  # noqa: SLF001
            owners = [_owner(unit, alone[0])]
        else:
            keys = [f"{where}.{key}" for where, _, key in infos]
            shapes = parameter._param_shapes  # noqa: SLF001
            owners = [(owner, key) for _, owner, key in infos]
        names = tuple(clean(f"{path}.{key}").removeprefix(prefix) for key in keys)
        yield Place(unit, parameter, names, tuple(shapes), tuple(owners))


def settle(outer: nn.Module) -> None:
    """Let each parameter be its shard: FairScale leaves frozen ones whole after backward, and cannot gather those."""
    for unit in filter(is_unit, outer.modules()):
        sharded: Any = unit
        if any(hasattr(parameter, "_fp32_shard") for parameter in sharded.params):
            sharded._free_full_params()  # noqa: SLF001 - what it does itself with those that are trained
            sharded._use_fp32_param_shard()  # noqa: SLF001


def forget_hooks(found: Iterable[Any]) -> None:
    """Take from shards the hooks that a backward has run.

    0.4.13 adds one to each at every forward and removes none, so that all earlier ones would run again at every step.

    Args:
        found: parameters of units.
    """
    for parameter in found:
        _, handle = vars(parameter).pop("_shard_bwd_hook", (None, None))
        if handle is not None:
            handle.remove()


def views(outer: nn.Module) -> list[tuple[nn.Module, str]]:
    """The modules that have views of flattened parameters in the place of their own, and the key of each."""
    flattened = [p for unit in filter(is_unit, outer.modules()) for p in _flat(unit)]
    own = [(owner, key) for p in flattened for _, owner, key in p._param_infos]  # noqa: SLF001
    shared = [(info[2], info[3]) for p in flattened for info in p._shared_param_infos]  # noqa: SLF001
    return [*own, *shared]


def _flat(unit: Any) -> list[Any]:
    return [p for p in unit.params if hasattr(p, "_param_infos")]


def hide(found: Iterable[tuple[nn.Module, str]]) -> None:
    """Let views of flattened parameters be empty until the next forward.

    FairScale frees the memory under them when a unit has computed; whoever reads them then ends the process.
    """
    for owner, key in found:
        vars(owner)[key] = _NOTHING


_NOTHING = torch.empty(0)


def without_wrappers(text: str) -> str:
    """A text in whose dotted names the wrappers do not appear."""
    return re.sub(rf"\b({'|'.join(_BETWEEN)})(\.|\b)", "", text)


def clean(path: str) -> str:
    """A dotted name without the wrappers in it."""
    return without_wrappers(path).strip(".")


def _owner(unit: Any, name: str) -> tuple[nn.Module, str]:
    *steps, key = name.split(".")
    owner = inside(unit)
    for step in steps:
        owner = getattr(owner, step)
    return owner, key


def inside(module: Any) -> Any:
    """What a unit wraps; anything else itself."""
    return module.module.module if is_unit(module) else module


def cut_apart(outer: nn.Module, tied: Iterable[Sequence[str]], found: Iterable[Place]) -> list[str]:
    """Names of a parameter, or of a module, that several units now have, each a copy or a part of its own.

    Args:
        outer: the outermost unit.
        tied: names of each parameter that had several.
        found: `places(outer)`.
    """
    there = {name for place in found for name in place.names}
    for names in tied:
        apart = [name for name in names if name in there]
        if len(apart) > 1:
            return apart
    wrapped = {id(inside(unit)) for unit in outer.modules() if is_unit(unit)}
    for path, module in outer.named_modules(remove_duplicate=False):
        if id(module) in wrapped and not path.endswith(_BETWEEN[1]):
            return [clean(path)]
    return []


def tied_names(module: nn.Module) -> list[list[str]]:
    """The names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [each for each in names.values() if len(each) > 1]


def unshard(
    module: nn.Module, outer: nn.Module, weights: Mapping[str, torch.Tensor] | None
) -> None:
    """Take a module out of its units again, with ordinary parameters.

    Args:
        module: the user's.
        outer: the unit around it; the module itself where there is none.
        weights: whole, by name; None where nobody has them, and parameters have the shape (0,).
    """
    found = places(outer, "" if outer is module else "module.")
    again: dict[int, nn.Parameter] = {}
    for place in found:
        for name, (owner, key) in zip(place.names, place.owners, strict=True):
            value = torch.empty(0) if weights is None else weights[name].to("cpu")
            fresh = nn.Parameter(value, requires_grad=place.parameter.requires_grad)
            if len(place.names) == 1:
                again[id(place.parameter)] = fresh
            _put(owner, key, fresh)
        for _, _, owner, key, first, first_key in getattr(
            place.parameter, "_shared_param_infos", ()
        ):
            _put(owner, key, getattr(first, first_key))
    _take_out(module, again)


def _put(owner: nn.Module, key: str, parameter: nn.Parameter) -> None:
    vars(owner).pop(key, None)
    owner.register_parameter(key, parameter)


def _take_out(module: nn.Module, again: Mapping[int, nn.Parameter]) -> None:
    vars(module).pop("_unflattened_param_views", None)
    for key, parameter in list(module.named_parameters(recurse=False)):
        if id(parameter) in again:
            _put(module, key, again[id(parameter)])
    for name, child in list(module.named_children()):
        bare = inside(child)
        if bare is not child:
            setattr(module, name, bare)
        _take_out(bare, again)
