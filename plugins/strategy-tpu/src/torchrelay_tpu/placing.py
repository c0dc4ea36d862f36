"""Moving a module to an XLA device and back, so that shared parameters stay shared and the user's own come back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.tree import map_tensors

Place = tuple[nn.Module, str]
"""A submodule, and the name of a parameter in it."""


class Moved:
    """A module whose parameters are on an XLA device.

    A tensor cannot become one of XLA's, so `Module.to` puts new parameters in the place of the old ones, another one in
    each place, which ends the sharing of weights. Here each parameter gets one successor, in all of its places; the old
    one keeps its identity, without its memory, and returns by `back`.

    Args:
        module: the user's.
        device: an XLA device.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._places = _places_of(module)
        module.to(device)
        self._now = {old: getattr(*places[0]) for old, places in self._places.items()}
        for old, new in self._now.items():
            new.__dict__.update(old.__dict__)
            self._put(old, new)
            old.data = torch.empty(0, dtype=old.dtype)

    def back(self, optimizers: Iterable[Optimizer]) -> None:
        """Move everything to the CPU, the state of optimizers too, and give the user's own parameters back."""
        self._module.to("cpu")
        before = {new: old for old, new in self._now.items()}
        for old, places in self._places.items():
            # A module may have replaced the parameter meanwhile, and then it is no longer there.
            successor = getattr(*places[0])
            old.data = successor.data.cpu()
            gradient = self._now[old].grad
            old.grad = None if gradient is None else gradient.cpu()
            self._put(old, old)
        for optimizer in optimizers:
            _follow(optimizer, before)

    def _put(self, old: nn.Parameter, parameter: nn.Parameter) -> None:
        for module, name in self._places[old]:
            setattr(module, name, parameter)


def _places_of(module: nn.Module) -> dict[nn.Parameter, list[Place]]:
    """Each parameter, once, and everywhere that it is."""
    places: dict[nn.Parameter, list[Place]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(parameter, []).append((part, name))
    return places


def _follow(optimizer: Optimizer, before: Mapping[Any, nn.Parameter]) -> None:
    """Let an optimizer have other parameters, and its state on the CPU."""
    for group in optimizer.param_groups:
        group["params"] = [before.get(each, each) for each in group["params"]]
    for parameter in list(optimizer.state):
        state = map_tensors(optimizer.state.pop(parameter), lambda tensor: tensor.cpu())
        optimizer.state[before.get(parameter, parameter)] = state
