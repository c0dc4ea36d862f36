"""Means of weights and of optimizer states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from torchrelay.collectives import Collectives

Tensors = dict[str, torch.Tensor]


def mean_of_ranks(collectives: Collectives, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The mean of each floating-point tensor over ranks; others are rank 0's. Collective.

    Tensors of one state travel in few messages: `reduce` packs those of one container.
    """
    smooth = {name: each for name, each in tensors.items() if each.is_floating_point()}
    rest = {name: each for name, each in tensors.items() if name not in smooth}
    means = collectives.reduce(smooth, "mean") if smooth else {}
    counted = collectives.broadcast(rest) if rest else {}
    return {name: (means if name in means else counted)[name] for name in tensors}


def mean_of_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One optimizer state for the states of all ranks: the mean of each floating-point tensor, else the first's."""
    first = states[0]
    return {
        **first,
        "state": {
            name: {key: _mean(_entries(states, name, key)) for key in entry}
            for name, entry in first["state"].items()
        },
    }


def _entries(states: Sequence[Mapping[str, Any]], name: Any, key: str) -> Iterable[Any]:
    # A rank that has skipped every step so far has no state yet.
    return [s["state"][name][key] for s in states if key in s["state"].get(name, {})]


def _mean(values: Iterable[Any]) -> Any:
    values = list(values)
    first = values[0]
    if isinstance(first, torch.Tensor) and first.is_floating_point():
        return torch.stack(values).mean(0)
    return first
