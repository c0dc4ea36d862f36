"""TruePrecision: one format for parameters, inputs and arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from torchrelay.errors import UnknownNameError
from torchrelay.precision.precision import Precision, Step
from torchrelay.tree import map_tensors

_FORMATS: dict[str, tuple[torch.dtype, Callable[[nn.Module], nn.Module]]] = {
    "16-true": (torch.float16, nn.Module.half),
    "bf16-true": (torch.bfloat16, nn.Module.bfloat16),
    "32-true": (torch.float32, nn.Module.float),
    "64-true": (torch.float64, nn.Module.double),
}


class TruePrecision(Precision):
    """One floating-point format for parameters, inputs and arithmetic; integers stay what they are.

    "32-true" is torch's own way: it converts nothing and costs nothing.

    Args:
        name: "32-true", "64-true", "16-true" or "bf16-true".

    Raises:
        UnknownNameError: another name.
    """

    def __init__(self, name: str = "32-true") -> None:
        if name not in _FORMATS:
            raise UnknownNameError(
                f"there is no true precision {name!r}; choose one of {', '.join(_FORMATS)}"
            )
        self.name = name
        self.dtype, self._convert = _FORMATS[name]
        self.converts_batches = name != "32-true"

    def init_context(self) -> AbstractContextManager[Any]:
        """Make this format torch's default while modules are created."""
        return default_dtype(self.dtype) if self.converts_batches else nullcontext()

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Give the module's floating-point parameters and buffers this format, in place."""
        return self._convert(module) if self.converts_batches else module

    def convert_batch(self, batch: Any) -> Any:
        """Give the batch's floating-point tensors this format."""
        return map_tensors(batch, self._convert_tensor) if self.converts_batches else batch

    def wrap_step(self, step: Step) -> Step:
        """A step in which new floating-point tensors have this format too."""
        if not self.converts_batches:
            return step

        @functools.wraps(step)
        def in_format(*args: Any, **kwargs: Any) -> Any:
            with default_dtype(self.dtype):
                return step(*args, **kwargs)

        return cast(Step, in_format)

    def _convert_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` the format of new floating-point tensors for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
