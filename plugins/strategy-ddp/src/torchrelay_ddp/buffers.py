"""One set of buffers for all ranks, wherever the wrapper does not see to it."""

from __future__ import annotations

import torch
from torch import nn

from torchrelay.collectives import Collectives


@torch.no_grad()
def share_buffers(collectives: Collectives, module: nn.Module) -> None:
    """Give every rank rank 0's buffers, in place. Collective.

    DistributedDataParallel does so before each forward pass, but each rank then updates its own: batch norm's
    statistics differ after a training step, and a checkpoint holds rank 0's.
    """
    buffers = dict(module.named_buffers())
    if not buffers:
        return
    for name, value in collectives.broadcast(buffers).items():
        buffers[name].copy_(value)
