"""StepDispatcher: lets a wrapper that only knows `forward` run any step of a module."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchrelay.strategies.steps import USUAL, Shape, shape_of


class StepDispatcher(nn.Module):
    """A module whose forward runs the named method of another.

    Wrappers such as DistributedDataParallel do their work around `forward`; a training step is another method.

    Args:
        module: whose methods to run; its parameters are this module's.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._shapes: dict[str, Shape] = {}

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run `module.NAME(*args, **kwargs)`; a step is given those of its batch and index that it takes."""
        shape = self._shapes.get(name)
        if shape is None:
            shape = self._shapes[name] = shape_of(self.module, name)
        method = getattr(self.module, name)
        return method(*args, **kwargs) if shape == USUAL else shape.call(method, *args, **kwargs)
