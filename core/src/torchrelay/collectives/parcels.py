"""Objects that travel between processes: their accelerator tensors by way of the CPU."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch

from torchrelay.collectives.messages import as_bytes, to_bytearray
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


def to_message(value: Any, device: torch.device) -> torch.Tensor:
    """A packed value, pickled: bytes (n,) on the CPU. Needs no numpy, unlike torch's own collectives of objects.

    Raises:
        Exception: whatever the value raises when it is pickled; nothing has been sent then.
    """
    file = io.BytesIO()
    pickle.dump(pack(value, device), file)
    return as_bytes(file.getbuffer())


def from_message(message: bytearray | torch.Tensor, device: torch.device) -> Any:
    """The value of which `to_message` made a message, on this process's device.

    Args:
        message: of this run's own; what lies behind the end of the pickle is not read. A tensor, on any device, is
            copied first.
        device: of this process.
    """
    content = to_bytearray(message) if isinstance(message, torch.Tensor) else message
    return unpack(pickle.loads(content), device)


def _on_accelerator(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu"
