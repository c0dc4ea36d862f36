"""Objects that travel between processes: their accelerator tensors by way of the CPU."""

from __future__ import annotations

from typing import Any

import torch

from torchrelay.tree import flatten

Parcel = tuple[Any, list[int]]
"""What travels, and which of its leaves were on an accelerator."""


def pack(value: Any, device: torch.device) -> Parcel:
    """A value with its accelerator tensors moved to the CPU, and which of its leaves those were.

    Args:
        value: may hold tensors in nested containers.
        device: of this process; a CPU has nothing to move.
    """
    if device.type == "cpu":
        return value, []
    leaves, rebuild = flatten(value)
    moved = [i for i, leaf in enumerate(leaves) if _on_accelerator(leaf)]
    for i in moved:
        leaves[i] = leaves[i].cpu()
    return (rebuild(leaves) if moved else value), moved


def unpack(parcel: Parcel, device: torch.device) -> Any:
    """The value that `pack` packed, with those tensors on this process's device."""
    value, moved = parcel
    if not moved:
        return value
    leaves, rebuild = flatten(value)
    for i in moved:
        leaves[i] = leaves[i].to(device)
    return rebuild(leaves)


def _on_accelerator(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu"
