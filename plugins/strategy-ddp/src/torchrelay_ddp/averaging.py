"""Post-local SGD: each rank updates its own weights, which are averaged now and then."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.optim import Optimizer

with warnings.catch_warnings():
    # The package compiles optimizers of its own in a way that torch itself has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.distributed.optim import PostLocalSGDOptimizer


class AveragingOptimizer(PostLocalSGDOptimizer):
    """torch's PostLocalSGDOptimizer, with a closure, and with groups that stay the inner optimizer's.

    Args:
        optimizer: makes the updates.
        period: updates between two averagings of the weights.
        warmup: updates before the first.
    """

    def __init__(self, optimizer: Optimizer, period: int, warmup: int) -> None:
        super().__init__(optimizer, PeriodicModelAverager(period=period, warmup_steps=warmup))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run the closure, update, average when it is time, and return the closure's result."""
        result = None if closure is None else closure()
        super().step()  # type: ignore[no-untyped-call]
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state; torch gives the inner optimizer new groups, which schedulers must find here too."""
        super().load_state_dict(state_dict)  # type: ignore[no-untyped-call]
        self.param_groups = self.optim.param_groups
