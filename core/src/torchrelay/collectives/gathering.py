"""Gathering through which gradients flow back, for collectives that gather without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Exchange = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


def gather_with_gradients(
    tensors: Sequence[torch.Tensor], gather: Exchange, own_slices: Exchange
) -> list[torch.Tensor]:
    """Gather tensors; in the backward pass each rank receives the summed gradients of its slices. Collective.

    Args:
        tensors: of the same shapes (*s) and formats on all ranks.
        gather: gathers tensors into (world_size, *s), without gradients. Collective.
        own_slices: from the gradients of what was gathered, for each the sum over ranks of this rank's slice.
            Collective.
    """
    # Formats are the same on all ranks, `requires_grad` need not be: only the former may decide.
    smooth = [tensor for tensor in tensors if _has_gradient(tensor)]
    gathered = iter(_gather(gather, own_slices, *smooth) if smooth else ())
    rest = iter(gather([tensor for tensor in tensors if not _has_gradient(tensor)]))
    return [next(gathered if _has_gradient(tensor) else rest) for tensor in tensors]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gather: Exchange, own_slices: Exchange, *tensors: torch.Tensor) -> Any:
        ctx.own_slices = own_slices
        return tuple(gather(tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return None, None, *ctx.own_slices(gradients)


_gather: Callable[..., tuple[torch.Tensor, ...]] = _Gather.apply


def _has_gradient(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
