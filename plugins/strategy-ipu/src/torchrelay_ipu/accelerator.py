"""IPUAccelerator: Graphcore's IPU."""

from __future__ import annotations

import torch

from torchrelay.accelerators import Accelerator
from torchrelay_ipu.probe import ipus


class IPUAccelerator(Accelerator):
    """Graphcore's IPU, or its emulator; PopTorch alone moves tensors there."""

    name = "ipu"

    @staticmethod
    def is_available() -> bool:
        """Whether PopTorch finds an IPU, or the emulator is asked for."""
        return ipus().count > 0

    @staticmethod
    def count() -> int:
        """Number of IPUs that PopTorch finds."""
        return ipus().count

    def device(self, index: int) -> torch.device:
        """The IPU of that number; torch itself has no operations there, so other strategies fail on it."""
        return torch.device("ipu", index)
