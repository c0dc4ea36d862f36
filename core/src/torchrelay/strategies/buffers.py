"""One set of buffers for all ranks, where the backend does not see to it."""

from __future__ import annotations

import torch
from torch import nn

from torchrelay.collectives.collectives import Collectives


@torch.no_grad()
def share_buffers(collectives: Collectives, module: nn.Module) -> None:
    """Give every rank rank 0's buffers, in place. Collective.

    Batch norm's statistics are each rank's own after a training step, while a checkpoint holds rank 0's: a strategy
    calls this before it evaluates.
    """
    buffers = dict(module.named_buffers())
    if not buffers:
        return
    for name, value in collectives.broadcast(buffers).items():
        buffers[name].copy_(value)
