"""Precision: the numeric formats of parameters, inputs and arithmetic."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import nn

Step = TypeVar("Step", bound=Callable[..., Any])
Closure = Callable[[], Any]


class Precision(ABC):
    """Decides the formats of parameters, inputs and arithmetic, and how gradients are scaled.

    What a format does not need costs nothing: `wrap_step` returns the step itself and `converts_batches` is
    False unless there is something to do.
    """

    name: str

    converts_batches: bool = False
    """Whether `convert_batch` changes anything."""

    def setup(self, device: torch.device) -> None:
        """Hear of the device that will compute; called in each process before the module is converted."""

    @abstractmethod
    def init_context(self) -> AbstractContextManager[Any]:
        """Context in which the user creates modules, so that parameters get this format at once."""

    @abstractmethod
    def convert_module(self, module: nn.Module) -> nn.Module:
        """Give the module's floating-point parameters and buffers this format, in place."""

    def convert_batch(self, batch: Any) -> Any:
        """Give the batch's floating-point tensors this format."""
        return batch

    def wrap_step(self, step: Step) -> Step:
        """A step that computes in this format; called once for each step function."""
        return step

    def backward(self, loss: torch.Tensor, run: Callable[[torch.Tensor], None]) -> None:
        """Scale `loss` as the format needs and pass it to `run`, which computes the gradients."""
        run(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradients of the optimizer's parameters true gradients. Once per window."""

    def optimizer_step(self, optimizer: torch.optim.Optimizer, closure: Closure) -> Any:
        """Run `closure`, update the parameters, and return the closure's result."""
        kind: Any = type(optimizer)  # a cached function takes what mypy knows to be hashable
        if not takes_ready_gradients(kind):
            return optimizer.step(closure)
        result = closure()
        optimizer.step()
        return result

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters from gradients that are there already, for backends that take no closure."""
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """State to keep in a checkpoint; empty if there is none."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""


@functools.cache
def takes_ready_gradients(kind: type[torch.optim.Optimizer]) -> bool:
    """Whether `step(closure)` is the same as the closure and then `step()`, which spares a context each step.

    It is for torch's own optimizers but LBFGS; of another nobody knows what it does with a closure.
    """
    return kind.__module__.startswith("torch.optim.") and kind is not torch.optim.LBFGS
