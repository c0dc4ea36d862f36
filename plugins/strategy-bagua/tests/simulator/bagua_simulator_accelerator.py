"""The simulated GPUs, as torchrelay sees them."""

from __future__ import annotations

import torch
from bagua_simulator import probe

from torchrelay.accelerators import CPUAccelerator


class SimulatedGPUAccelerator(CPUAccelerator):
    """The processor in the place of GPUs; choosing a device is what declares it."""

    name = "bagua_sim"

    @staticmethod
    def is_available() -> bool:
        """Whether the simulated machine has any."""
        return SimulatedGPUAccelerator.count() > 0

    @staticmethod
    def count() -> int:
        """How many it has."""
        return probe().count

    def device(self, index: int) -> torch.device:
        """The processor, by the index of the GPU that it stands in for."""
        return torch.device("cpu", index)

    def setup_device(self, device: torch.device) -> None:
        """Choose the device, as `torch.cuda.set_device` does."""
        from bagua_simulated.machine import machine

        machine.choose(device.index or 0, stands_in=device.type)
