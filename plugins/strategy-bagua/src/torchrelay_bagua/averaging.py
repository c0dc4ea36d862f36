"""Averages of weights over ranks, for algorithms under which each rank has weights of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from torchrelay.collectives import Collectives


@torch.no_grad()
def average_weights(collectives: Collectives, module: nn.Module) -> None:
    """Give every rank the average of the trained weights, in place. Collective."""
    trained = _trained(module)
    for name, value in collectives.reduce({n: p.detach() for n, p in trained.items()}).items():
        trained[name].copy_(value)


@torch.no_grad()
def averaged_state(
    collectives: Collectives, module: nn.Module, state: Mapping[str, Any]
) -> dict[str, Any]:
    """A module's state with the average of the trained weights; each rank goes on with its own. Collective."""
    trained = _trained(module)
    mean = collectives.reduce({name: parameter.detach() for name, parameter in trained.items()})
    at = {parameter: mean[name] for name, parameter in trained.items()}
    averages = {
        name: at[parameter]
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter in at
    }
    return {name: averages.get(name, value) for name, value in state.items()}


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in module.named_parameters() if each.requires_grad}
