"""HCCLCollectives: torch.distributed over HCCL, which combines few formats by few operations."""

from __future__ import annotations

from typing import Any, get_args

import torch

from torchrelay.collectives import TorchCollectives
from torchrelay.collectives.collectives import ReduceOp
from torchrelay.errors import ConfigurationError
from torchrelay.tree import flatten

COMBINED = (torch.float32, torch.bfloat16, torch.float16)
"""Formats that HCCL combines as they are asked for."""


class HCCLCollectives(TorchCollectives):
    """Communication through HCCL.

    Its sum, minimum and maximum of 16- and 32-bit floats are used, and a mean is a sum that is divided. Everything
    else, for which HCCL has no operation, or would round to 32-bit floats, is gathered as bytes and combined by each
    rank: integers, booleans, 64-bit floats, and products.

    Args:
        timeout: how long an operation may take before it fails; torch's default when None.
    """

    def __init__(self, timeout: Any = None) -> None:
        super().__init__(backend="hccl", timeout=timeout)

    def reduce(self, value: Any, op: ReduceOp = "mean") -> Any:
        """Combine a value over all ranks; every rank receives the result.

        Raises:
            ConfigurationError: no such operation, or a leaf that is neither tensor nor number.
        """
        if op not in get_args(ReduceOp):
            raise ConfigurationError(
                f"reduce cannot do {op!r}; choose one of {', '.join(get_args(ReduceOp))}"
            )
        leaves, rebuild = flatten(value)
        native = [at for at, leaf in enumerate(leaves) if op != "product" and _combined(leaf)]
        others = [at for at in range(len(leaves)) if at not in native]
        results = (
            dict(zip(native, super().reduce([leaves[at] for at in native], op), strict=True))
            if native
            else {}
        )
        if others:
            rows = self.all_gather([_exact(leaves[at]) for at in others])
            for at, row in zip(others, rows, strict=True):
                results[at] = _finished(leaves[at], _BY_HAND[op](row), op)
        return rebuild([results[at] for at in range(len(leaves))])


def _combined(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dtype in COMBINED


def _exact(leaf: Any) -> torch.Tensor:
    """A leaf on the CPU, in a format in which it neither wraps nor rounds.

    Raises:
        ConfigurationError: it is neither tensor nor number.
    """
    if not isinstance(leaf, (torch.Tensor, bool, int, float, complex)):
        raise ConfigurationError(
            f"cannot combine a {type(leaf).__name__} over processes, only tensors and numbers; leave it out, or send "
            "it with broadcast"
        )
    tensor = torch.as_tensor(leaf, dtype=torch.float64 if isinstance(leaf, float) else None)
    tensor = tensor.detach().cpu()
    if tensor.is_complex():
        return tensor
    return tensor.double() if tensor.is_floating_point() else tensor.long()


_BY_HAND = {
    "mean": lambda rows: rows.double().mean(0) if not rows.is_complex() else rows.mean(0),
    "sum": lambda rows: rows.sum(0),
    "min": lambda rows: rows.amin(0),
    "max": lambda rows: rows.amax(0),
    "product": lambda rows: rows.prod(0),
}


def _finished(leaf: Any, total: torch.Tensor, op: ReduceOp) -> Any:
    """A result in the type and on the device of its leaf.

    Means of integers keep their fraction, their sums and products are 64-bit; minimum and maximum keep the type.
    """
    if not isinstance(leaf, torch.Tensor):
        found = total.item()
        return bool(found) if isinstance(leaf, bool) and op in ("min", "max") else found
    if leaf.is_floating_point() or leaf.is_complex() or op in ("min", "max"):
        return total.to(leaf.device, leaf.dtype)
    dtype = torch.get_default_dtype() if op == "mean" else torch.int64
    return total.to(leaf.device, dtype)
