"""What the compiler of steps is given, and what it must not follow: logging, whose bookkeeping always changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchrelay.strategies import StepDispatcher

LOGGING = ("log", "log_dict")

_DISABLE: Callable[[Any], Any] = torch.compiler.disable


class CompiledStep(StepDispatcher):
    """What a wrapper runs for a training step: the compiled one.

    Args:
        module: whose parameters are this module's.
        step: the compiled step.
    """

    def __init__(self, module: nn.Module, step: Callable[..., Any]) -> None:
        super().__init__(module)
        self.step = step

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run the step."""
        return self.step(*args, **kwargs)


def keep_apart(module: Any) -> None:
    """Let a module's logging run as it is; traced, it would have the step compiled again for each batch."""
    for name in LOGGING:
        if hasattr(module, name):
            module.__dict__[name] = _DISABLE(getattr(module, name))


def forget(module: Any) -> None:
    """Let a module be as it was."""
    for name in LOGGING:
        module.__dict__.pop(name, None)
