"""Averaging gradients outside the wrapper, for backward passes that it cannot see."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from torchrelay.collectives.collectives import Collectives


def average_gradients(collectives: Collectives, optimizer: Optimizer) -> None:
    """Average the gradients of an optimizer's parameters over ranks, in place. Collective.

    A parameter without a gradient on some ranks counts as zero there; without one anywhere it stays so.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    if not parameters:
        return
    mine = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)
    somewhere = collectives.reduce(mine.int(), "max").bool().tolist()
    taking_part = [p for p, has in zip(parameters, somewhere, strict=True) if has]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in taking_part]
    for parameter, gradient in zip(taking_part, collectives.reduce(gradients, "mean"), strict=True):
        parameter.grad = gradient
