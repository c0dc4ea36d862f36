"""Caller: the model that an engine is made around; its forward is whatever step is to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Caller(nn.Module):
    """A module whose forward calls a function, which uses another module.

    The function has the step's arguments in it: at stage 3 an engine leads each tensor that a module is given through
    an autograd function, which for data does nothing but take time.

    Args:
        module: whose steps run; its parameters are this module's.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[], Any]) -> Any:
        """Give what the function gives."""
        return call()
