"""The user's optimizer on shards of flattened parameters, and its state by the names of those that they were."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.checkpoint.optimizer_names import from_names
from torchrelay.errors import CheckpointError, UnsupportedError
from torchrelay_fairscale.units import Place

State = dict[str, Any]
Groups = list[list[str]]
Gather = Callable[[torch.Tensor], torch.Tensor]


def group_names(
    optimizer: Optimizer, module: nn.Module, made_in_units: Sequence[Place] = ()
) -> Groups:
    """Names of the parameters of each group.

    Args:
        optimizer: just built.
        module: the user's, before it is wrapped.
        made_in_units: what `configure_model` has sharded already, whose parameters stand for several.
    """
    names = {p: [name] for name, p in module.named_parameters()}
    names |= {place.parameter: list(place.names) for place in made_in_units}
    groups: Groups = []
    for group in optimizer.param_groups:
        unknown = [p for p in group["params"] if p not in names]
        if unknown:
            raise UnsupportedError(
                f"{type(optimizer).__name__} has a parameter of shape {tuple(unknown[0].shape)} that is none of the "
                "module's, and ranks would update it each by itself; make it a parameter of the module"
            )
        groups.append([name for p in group["params"] for name in names[p]])
    return groups


def alike(optimizers: Iterable[Optimizer]) -> Callable[[Iterable[nn.Parameter]], bool]:
    """A function that says of parameters whether they may be flattened together."""
    group_of = {
        parameter: (number, index)
        for number, optimizer in enumerate(optimizers)
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }

    def judge(parameters: Iterable[nn.Parameter]) -> bool:
        kinds = {(p.requires_grad, p.dtype, group_of.get(p)) for p in parameters}
        return len(kinds) < 2

    return judge


def take_shards(
    optimizer: Optimizer, groups: Groups, found: Iterable[Place], before: State
) -> None:
    """Let an optimizer update shards in the place of the parameters that it was built with.

    Args:
        optimizer: the user's.
        groups: names of the parameters of each group.
        found: the shards.
        before: state that it was built with, by name, such as Adagrad's.

    Raises:
        UnsupportedError: a shard has parameters of several groups, or some that the optimizer does not have.
    """
    group_of = {name: index for index, names in enumerate(groups) for name in names}
    for group in optimizer.param_groups:
        group["params"] = []
        group.pop("param_names", None)
    kept = dict(optimizer.state)
    optimizer.state.clear()
    for place in found:
        if not place.parameter.requires_grad:
            continue
        first = place.names[0]
        for name in place.names:
            if group_of.get(name) != group_of.get(first):
                raise UnsupportedError(
                    f"FairScale flattens the parameters of a unit into one, and the optimizer has {first} and {name} "
                    "in different groups, or only one of them; write FullyShardedConfig() without "
                    "flatten_parameters=True, or a policy that keeps them apart"
                )
        if first in group_of:
            optimizer.param_groups[group_of[first]]["params"].append(place.parameter)
        if place.parameter in kept:
            optimizer.state[place.parameter] = kept[place.parameter]
        elif first in before:
            optimizer.state[place.parameter] = _joined(place, [before[n] for n in place.names])


def full_state(
    optimizer: Optimizer, groups: Groups, found: Iterable[Place], gather: Gather
) -> State:
    """The whole state by name. Collective; complete on every rank.

    Args:
        optimizer: of the shards.
        groups: names of the parameters of each group.
        found: the shards.
        gather: puts the parts of all ranks, of equal length, one behind the other, on the CPU.
    """
    state: dict[str, State] = {}
    for place in found:
        for key, value in optimizer.state.get(place.parameter, {}).items():
            if _is_sharded(value, place):
                pieces: Mapping[str, Any] = place.split(gather(value))
            else:
                pieces = {name: _copied(value) for name in place.names}
            for name, piece in pieces.items():
                state.setdefault(name, {})[key] = piece
    return {
        "state": state,
        "param_groups": [
            {**_options(group), "params": list(names)}
            for group, names in zip(optimizer.param_groups, groups, strict=True)
        ],
    }


def load_full_state(
    optimizer: Optimizer, groups: Groups, found: Iterable[Place], state: Mapping[str, Any]
) -> None:
    """Take up this rank's part of a whole state by name, and the options of groups.

    Raises:
        CheckpointError: it is another model's.
    """
    order = [name for names in groups for name in names]
    whole = from_names(_as_built(optimizer, groups), state, {name: name for name in order})
    by_name = {name: whole["state"].get(index) for index, name in enumerate(order)}
    of_shard = {place.parameter: place for place in found}
    entries: dict[int, State] = {}
    numbers: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            place = of_shard[parameter]
            pieces = [by_name[name] or {} for name in place.names]
            if any(pieces):
                entries[len(numbers)] = _joined(place, pieces)
            numbers.append(parameter)
    place_of = {parameter: index for index, parameter in enumerate(numbers)}
    optimizer.load_state_dict(
        {
            "state": entries,
            "param_groups": [
                {**_options(saved), "params": [place_of[p] for p in own["params"]]}
                for saved, own in zip(whole["param_groups"], optimizer.param_groups, strict=True)
            ],
        }
    )


def _as_built(optimizer: Optimizer, groups: Groups) -> Any:
    """What an optimizer would look like whose parameters were names."""
    return SimpleNamespace(
        param_groups=[
            {**_options(group), "params": names}
            for group, names in zip(optimizer.param_groups, groups, strict=True)
        ]
    )


def _options(group: Mapping[str, Any]) -> State:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _is_sharded(value: object, place: Place) -> bool:
    return (
        isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape == place.parameter.shape
    )


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def _joined(place: Place, pieces: Sequence[Mapping[str, Any]]) -> State:
    """One entry for a shard of the entries of the parameters that are in it."""
    entry: State = {}
    for key in dict.fromkeys(key for piece in pieces for key in piece):
        values = [piece.get(key) for piece in pieces]
        some = next(value for value in values if value is not None)
        if isinstance(some, torch.Tensor) and some.dim() > 0:
            entry[key] = place.shard(_whole(place, key, values, some))
        else:
            entry[key] = _greatest(place, key, values)
    return entry


def _whole(place: Place, key: str, values: list[Any], like: torch.Tensor) -> list[torch.Tensor]:
    filled = []
    for name, shape, value in zip(place.names, place.shapes, values, strict=True):
        tensor = torch.zeros(shape, dtype=like.dtype) if value is None else value
        if tensor.shape != shape:
            raise CheckpointError(
                f"the checkpoint's optimizer state does not fit: {key!r} of shape {tuple(tensor.shape)} for {name} "
                f"{tuple(shape)}; load it with the model that it was saved from"
            )
        filled.append(tensor)
    return filled


def _greatest(place: Place, key: str, values: list[Any]) -> Any:
    """A number that a shard has once, such as a count of steps."""
    there = [value for value in values if value is not None]
    chosen = max(there, key=float) if len(there) > 1 else there[0]
    least = float(min(there, key=float))
    if least != float(chosen):
        warnings.warn(
            f"the checkpoint's optimizer has parameters of {least:g} and of {float(chosen):g} for {key!r}, and "
            f"FairScale keeps one for {place.names[0]} and those flattened with it: the greatest is taken",
            stacklevel=2,
        )
    return chosen.clone() if isinstance(chosen, torch.Tensor) else chosen
