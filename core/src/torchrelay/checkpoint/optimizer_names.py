"""Optimizer state by parameter name: the form that travels between strategies and world sizes.

torch numbers an optimizer's parameters in the order of its groups. A name stays right when groups are
reordered, when a strategy splits or merges optimizers' storage, and when a model gains a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay.checkpoint.model_state import some
from torchrelay.errors import CheckpointError

Names = Mapping[Any, str]
"""Parameter -> name."""

State = dict[str, Any]


def to_names(optimizer: Optimizer, names: Names, state: Mapping[str, Any] | None = None) -> State:
    """Turn an optimizer's state into the form by name.

    Args:
        optimizer: tells the order of the parameters.
        names: the name of each parameter; one that has none (it is not the module's) is named by its place.
        state: a state dict with integer keys; the optimizer's own when None.

    Returns:
        `{"state": {name: {...}}, "param_groups": [{..., "params": [names]}]}`.
    """
    state = optimizer.state_dict() if state is None else state
    groups = _group_names(optimizer, names)
    name_of = {
        index: name
        for group, group_names in zip(state["param_groups"], groups, strict=True)
        for index, name in zip(group["params"], group_names, strict=True)
    }
    return {
        **state,
        "state": {name_of.get(key, key): entry for key, entry in state["state"].items()},
        "param_groups": [
            {**_options(group), "params": group_names}
            for group, group_names in zip(state["param_groups"], groups, strict=True)
        ],
    }


def from_names(optimizer: Optimizer, state: Mapping[str, Any], names: Names) -> State:
    """Turn the form by name into what `optimizer.load_state_dict` takes.

    Args:
        optimizer: the one that will load it; its groups may be ordered or cut otherwise than those saved.
        state: by name, or by integers as torch has it.
        names: the name of each parameter.

    Raises:
        CheckpointError: parameters are missing or unexpected (which), or a group now holds parameters
            whose saved options differ.
    """
    groups = _group_names(optimizer, names)
    if _is_numbered(state):
        _check_sizes(groups, state)
        return dict(state)
    _check_names(groups, state)
    flat = [name for group in groups for name in group]
    index_of = {name: index for index, name in enumerate(flat)}
    saved = {name: group for group in state["param_groups"] for name in group["params"]}
    return {
        **state,
        "state": {index_of.get(key, key): entry for key, entry in state["state"].items()},
        "param_groups": [
            {**_saved_options(group, own, saved), "params": [index_of[name] for name in group]}
            for group, own in zip(groups, optimizer.param_groups, strict=True)
        ],
    }


def _group_names(optimizer: Optimizer, names: Names) -> list[list[str]]:
    groups, place = [], 0
    for group in optimizer.param_groups:
        listed = []
        for parameter in group["params"]:
            listed.append(names.get(parameter, f"unnamed.{place}"))
            place += 1
        groups.append(listed)
    return groups


def _options(group: Mapping[str, Any]) -> State:
    # torch's own list of names, which it keeps for optimizers made from named parameters, is not needed twice.
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _is_numbered(state: Mapping[str, Any]) -> bool:
    return all(isinstance(key, int) for group in state["param_groups"] for key in group["params"])


def _saved_options(group: list[str], own: Mapping[str, Any], saved: Mapping[str, Any]) -> State:
    sources = [_options(saved[name]) for name in group]
    if not sources:
        return _options(own)
    for name, source in zip(group, sources, strict=True):
        differing = [key for key in sources[0] if not _same(source.get(key), sources[0][key])]
        if differing:
            raise CheckpointError(
                f"the optimizer groups {group[0]} with {name}, but the checkpoint has them in groups with "
                f"another {some(differing)}; group them as they were when it was saved"
            )
    return sources[0]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def _check_names(groups: list[list[str]], state: Mapping[str, Any]) -> None:
    own = [name for group in groups for name in group]
    saved = {name for group in state["param_groups"] for name in group["params"]}
    missing = [name for name in own if name not in saved]
    unexpected = sorted(saved - set(own))
    if missing or unexpected:
        found = {"missing": missing, "unexpected": unexpected}
        listed = "; ".join(f"{what} {some(names)}" for what, names in found.items() if names)
        raise CheckpointError(
            f"the checkpoint's optimizer state does not fit the optimizer: {listed}; give configure_optimizers "
            "the parameters that it had when the checkpoint was saved"
        )


def _check_sizes(groups: list[list[str]], state: Mapping[str, Any]) -> None:
    own = [len(group) for group in groups]
    saved = [len(group["params"]) for group in state["param_groups"]]
    if own != saved:
        raise CheckpointError(
            f"the checkpoint's optimizer has groups of {saved} parameters, the optimizer of {own}; it names "
            "no parameters, so the groups must be those of the run that saved it"
        )
