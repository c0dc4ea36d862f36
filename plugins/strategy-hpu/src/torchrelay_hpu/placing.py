"""What a move of a module does not keep where it makes new parameters: tied weights, and optimizers' parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer


def tied(module: nn.Module) -> list[list[str]]:
    """Names of the parameters that are one."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def tie(module: nn.Module, groups: list[list[str]]) -> None:
    """Make those parameters one again."""
    for first, *others in groups:
        parameter = module.get_parameter(first)
        for name in others:
            path, _, last = name.rpartition(".")
            setattr(module.get_submodule(path), last, parameter)


def follow(
    optimizer: Optimizer, before: Mapping[Any, str], after: Mapping[str, nn.Parameter]
) -> None:
    """Give an optimizer the parameters that a module has now, in the place of those that it had."""

    def now(parameter: Any) -> Any:
        return after.get(before.get(parameter, ""), parameter)

    for group in optimizer.param_groups:
        group["params"] = [now(parameter) for parameter in group["params"]]
    state = {now(parameter): entry for parameter, entry in optimizer.state.items()}
    optimizer.state.clear()
    optimizer.state.update(state)
