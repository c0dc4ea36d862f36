"""The learning rate times the number of ranks, where a user asks for it: nothing scales it in silence."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from torch.optim import Optimizer

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""What a group of an optimizer may hold that is a learning rate; schedulers put some of them there."""

OF_SCHEDULERS = ("base_lrs", "max_lrs", "_last_lr")
"""Where torch's schedulers keep learning rates of their own; `eta_min` and thresholds are left alone."""

log = logging.getLogger("torchrelay")


def scale(
    optimizers: Iterable[Optimizer], schedulers: Iterable[Any], factor: int, *, tell: bool
) -> None:
    """Multiply every learning rate, and say so at the level INFO.

    Args:
        optimizers: their groups.
        schedulers: the rates that they go back to.
        factor: number of ranks.
        tell: whether this rank is the one that says it.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            before = float(group["lr"])
            for name in RATES:
                if name in group:
                    group[name] = group[name] * factor
            if tell:
                log.info(
                    "scale_lr: the learning rate of %s is %g x %d ranks = %g",
                    *(type(optimizer).__name__, before, factor, float(group["lr"])),
                )
    for scheduler in _each(schedulers):
        for name in OF_SCHEDULERS:
            if isinstance(getattr(scheduler, name, None), list):
                setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])


def _each(schedulers: Iterable[Any]) -> Iterator[Any]:
    """The schedulers, and those that they combine."""
    for scheduler in schedulers:
        yield scheduler
        yield from _each(getattr(scheduler, "_schedulers", ()))
