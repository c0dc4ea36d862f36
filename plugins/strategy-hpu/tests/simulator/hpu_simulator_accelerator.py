"""The simulated HPU, as torchrelay sees it."""

from __future__ import annotations

import torch
from hpu_simulator import probe

from torchrelay_hpu import vendor
from torchrelay_hpu.accelerator import HPUAccelerator


class SimulatedHPUAccelerator(HPUAccelerator):
    """HPUs that the processor stands in for."""

    name = "hpu_sim"

    @staticmethod
    def is_available() -> bool:
        """Whether the simulated machine has any."""
        return SimulatedHPUAccelerator.count() > 0

    @staticmethod
    def count() -> int:
        """How many it has."""
        return probe().count

    def device(self, index: int) -> torch.device:
        """The same device; torch knows the simulated one only once the bridge is there."""
        vendor.module()
        return super().device(index)
