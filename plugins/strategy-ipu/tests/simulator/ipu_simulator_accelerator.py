"""The simulated IPU, as torchrelay sees it: what it computes, the processor does."""

from __future__ import annotations

import torch
from poptorch.hardware import emulated, installed

from torchrelay.accelerators import Accelerator


class SimulatedIPUAccelerator(Accelerator):
    """IPUs that the processor stands in for."""

    name = "ipu_sim"

    @staticmethod
    def is_available() -> bool:
        """Whether the simulated machine has any, or emulates them."""
        return installed() > 0 or emulated()

    @staticmethod
    def count() -> int:
        """How many it has."""
        return installed()

    def device(self, index: int) -> torch.device:
        """The processor, so that one process can be compared with."""
        return torch.device("cpu")
