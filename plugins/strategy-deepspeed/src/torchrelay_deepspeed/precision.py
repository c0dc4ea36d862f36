"""DeepSpeedPrecision: the formats as DeepSpeed's engine keeps them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from torchrelay.precision import Precision
from torchrelay.tree import map_tensors
from torchrelay_deepspeed.loss_scale import load_loss_scale, loss_scale_state

FORMATS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Precision of the Trainer -> the format in which DeepSpeed computes; it keeps fp32 weights beside it."""


def cpu_has_fp16() -> bool:
    """Whether DeepSpeed lets this machine's CPU compute in fp16; it asks the same of torch."""
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return ask is not None and bool(ask())


class DeepSpeedPrecision(Precision):
    """What a precision comes to under an engine, which converts the module and scales losses itself.

    Batches take the format of the weights: the engine does not use autocast.

    Args:
        name: one of `FORMATS`.

    Attributes:
        engine: gives the engine, for the state of its loss scale; None where there is none.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype = FORMATS[name]
        self.converts_batches = self.dtype is not torch.float32
        self.engine: Callable[[], Any] = _none

    def init_context(self) -> AbstractContextManager[Any]:
        """The engine converts what the module makes."""
        return nullcontext()

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Give the module's floating-point parameters and buffers the format to evaluate in, where no engine does."""
        return module.to(self.dtype)

    def convert_batch(self, batch: Any) -> Any:
        """Give the batch's floating-point tensors the format of the weights."""
        return map_tensors(batch, self._converted)

    def _converted(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def state_dict(self) -> dict[str, Any]:
        """The scale of losses, for 16-mixed."""
        engine = self.engine()
        return loss_scale_state(engine) if engine is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the scale of losses."""
        engine = self.engine()
        if engine is not None and state:
            load_loss_scale(engine, state)


def _none() -> None:
    """There is no engine before a strategy has the precision."""
