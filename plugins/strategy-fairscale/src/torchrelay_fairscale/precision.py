"""FullyShardedPrecision: 16-bit arithmetic on weights that are gathered in 16 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from torchrelay.precision import MixedPrecision
from torchrelay.tree import map_tensors


class FullyShardedPrecision(MixedPrecision):
    """Weights are gathered in 16 bits, and updated in 32; the step runs under autocast as elsewhere.

    Batches are converted too: FairScale turns what is left of fp32 into fp16, under bf16-mixed as well. An overflow in
    one rank's part of the gradients is every rank's: torch's own scaler for shards sees to it, on the CPU too, where
    FairScale's asks for CUDA.

    Args:
        name: "16-mixed" or "bf16-mixed".
    """

    converts_batches = True

    def __init__(self, name: str) -> None:
        super().__init__(name)

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The gradient scaler; None for "bf16-mixed"."""
        if self._scaler is None and self.name == "16-mixed":
            self._scaler = ShardedGradScaler(self.device_type)
        return self._scaler

    def convert_batch(self, batch: Any) -> Any:
        """Give the batch's floating-point tensors the format of the arithmetic."""
        return map_tensors(batch, self._converted)

    def _converted(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor
