"""Acme's simulated device."""

from __future__ import annotations

import torch

from acme_local_sgd.probe import simulated
from torchrelay.accelerators import Accelerator


class SimulatedAccelerator(Accelerator):
    """The processor, in the place of a device that the vendor would have."""

    name = "acme_sim"
    process_group_backend = "gloo"

    @staticmethod
    def is_available() -> bool:
        """Wherever any are simulated."""
        return simulated().count > 0

    @staticmethod
    def count() -> int:
        """Number of simulated devices."""
        return simulated().count

    def device(self, index: int) -> torch.device:
        """The processor, whatever the index."""
        return torch.device("cpu")
