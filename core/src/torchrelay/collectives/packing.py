"""How values become the few buffers that travel between processes, and values again."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch

from torchrelay.collectives.collectives import ReduceOp
from torchrelay.errors import ConfigurationError

AllReduce = Callable[[torch.Tensor], None]


def check_op(op: str) -> None:
    """Refuse an operation that `reduce` does not know.

    Raises:
        ConfigurationError: naming those that it knows.
    """
    if op not in get_args(ReduceOp):
        known = ", ".join(get_args(ReduceOp))
        raise ConfigurationError(f"reduce cannot do {op!r}; choose one of {known}")


def as_tensor(leaf: Any) -> torch.Tensor:
    """A tensor for a tensor or a number; Python's floats become 64-bit.

    Raises:
        ConfigurationError: the leaf is neither.
    """
    if isinstance(leaf, torch.Tensor):
        return leaf
    if isinstance(leaf, numbers.Number):
        return torch.tensor(leaf, dtype=torch.float64 if isinstance(leaf, float) else None)
    raise ConfigurationError(
        f"cannot combine a {type(leaf).__name__} over processes, only tensors and numbers; "
        "leave it out, or send it with broadcast"
    )


def carrier(dtype: torch.dtype) -> torch.dtype:
    """The format in which a reduction of `dtype` is computed, so that it neither wraps nor rounds early."""
    if dtype.is_complex or dtype in (torch.float32, torch.float64):
        return dtype
    return torch.float32 if dtype.is_floating_point else torch.int64


def finish(leaf: Any, total: torch.Tensor, op: ReduceOp, world_size: int) -> Any:
    """The result of a reduction, in the type and on the device of `leaf`.

    A mean of integers keeps its fraction; sums and products of integers and booleans are 64-bit integers, as
    in `torch.sum`; minimum and maximum keep the type.
    """
    integral = total.dtype is torch.int64
    if op == "mean":
        total = (total.double() if integral else total) / world_size
    if isinstance(leaf, torch.Tensor):
        return total.to(leaf.device, _result_dtype(leaf.dtype, integral, op))
    result = total.item()
    return bool(result) if isinstance(leaf, bool) and op in ("min", "max") else result


def _result_dtype(dtype: torch.dtype, integral: bool, op: ReduceOp) -> torch.dtype:
    if not integral or op in ("min", "max"):
        return dtype
    return torch.get_default_dtype() if op == "mean" else torch.int64


def reduce_together(
    tensors: Sequence[torch.Tensor], all_reduce: AllReduce, device: torch.device
) -> list[torch.Tensor]:
    """Reduce tensors, one collective call for each format among their carriers.

    Args:
        tensors: left alone.
        all_reduce: reduces one flat buffer in place.
        device: where buffers must be.

    Returns:
        New tensors of the same shapes, on `device`, in their carriers' formats.
    """
    formats: dict[torch.dtype, list[int]] = {}
    for position, tensor in enumerate(tensors):
        formats.setdefault(carrier(tensor.dtype), []).append(position)
    results: dict[int, torch.Tensor] = {}
    for dtype, positions in formats.items():
        group = [tensors[position].detach() for position in positions]
        buffer = torch.cat([tensor.to(device, dtype).reshape(-1) for tensor in group])
        all_reduce(buffer)
        parts = torch.split(buffer, [tensor.numel() for tensor in group])
        for position, tensor, part in zip(positions, group, parts, strict=True):
            # A part that shares its memory with others would keep, and save, all of them.
            results[position] = (part.clone() if len(parts) > 1 else part).reshape(tensor.shape)
    return [results[position] for position in range(len(tensors))]


def to_bytes(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """One flat buffer of bytes that holds all tensors, whatever their formats."""
    flat = (tensor.detach().to(device).reshape(-1).contiguous() for tensor in tensors)
    return torch.cat([tensor.view(torch.uint8) for tensor in flat])


def from_bytes(rows: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Take apart buffers that `to_bytes` made, stacked to (world_size, bytes).

    Returns:
        For each tensor of shape (*s) of `like`, one of shape (world_size, *s) on the same device.
    """
    parts = torch.split(rows, [tensor.numel() * tensor.element_size() for tensor in like], dim=1)
    return [
        # The copy starts at an address that every format may start at.
        part.clone(memory_format=torch.contiguous_format)
        .reshape(-1)
        .view(tensor.dtype)
        .reshape(rows.shape[0], *tensor.shape)
        .to(tensor.device)
        for part, tensor in zip(parts, like, strict=True)
    ]
