"""What the compiler of steps is given, and what it must not follow: logging, whose bookkeeping always changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def kept_apart(module: Any) -> Iterator[None]:
    """Let a module's logging run as it is; traced, it would have the step compiled again for each batch.

    Afterwards the module has what it had of its own under these names.
    """
    own = {name: module.__dict__[name] for name in LOGGING if name in module.__dict__}
    try:
        for name in LOGGING:
            if hasattr(module, name):
                module.__dict__[name] = _DISABLE(getattr(module, name))
        yield
    finally:
        for name in LOGGING:
            module.__dict__.pop(name, None)
        module.__dict__.update(own)
