"""StepDispatcher: lets a wrapper that only knows `forward` run any step of a module."""

from __future__ import annotations

from typing import Any

from torch import nn


class StepDispatcher(nn.Module):
    """A module whose forward runs the named method of another.

    Wrappers such as DistributedDataParallel do their work around `forward`; a training step is another method.

    Args:
        module: whose methods to run; its parameters are this module's.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, name: str, *args: Any) -> Any:
        """Run `module.NAME(*args)`."""
        return getattr(self.module, name)(*args)
