"""FP8Precision: 8-bit floats in layers of the bridge's transformer engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from torchrelay.errors import UnsupportedError
from torchrelay.precision import Precision
from torchrelay_hpu import vendor


class FP8Precision(Precision):
    """Layers of `habana_frameworks.torch.hpex.experimental.transformer_engine` compute in 8 bits, the rest in bf16.

    Parameters keep 32 bits. A model without such layers is trained as under bf16-mixed.

    Args:
        recipe: a `recipe.DelayedScaling` of the transformer engine; its default when None.
    """

    name = "fp8"

    def __init__(self, recipe: Any = None) -> None:
        self.recipe = recipe

    def setup(self, device: torch.device) -> None:
        """Ask the SDK.

        Raises:
            UnsupportedError: the device has no 8-bit floats; in the SDK's words.
        """
        there, reason = vendor.fp8_available()
        if not there:
            raise UnsupportedError(f"precision='fp8': {reason}; take precision='bf16-mixed'")

    def init_context(self) -> AbstractContextManager[Any]:
        """Parameters keep 32 bits."""
        return nullcontext()

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Parameters keep 32 bits."""
        return module

    def wrap_step(self, step: Callable[..., Any]) -> Any:
        """A step in 8 bits where the transformer engine is, in bf16 elsewhere."""

        @functools.wraps(step)
        def in_fp8(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast("hpu", torch.bfloat16), vendor.fp8_autocast(self.recipe):
                return step(*args, **kwargs)

        return cast(Any, in_fp8)
