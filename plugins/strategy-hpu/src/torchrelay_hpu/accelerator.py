"""HPUAccelerator: Intel's Gaudi."""

from __future__ import annotations

import torch

from torchrelay.accelerators import Accelerator
from torchrelay_hpu import vendor
from torchrelay_hpu.probe import hpus


class HPUAccelerator(Accelerator):
    """Intel's Gaudi; a process has one, which its module id chooses."""

    name = "hpu"
    process_group_backend = "hccl"

    @staticmethod
    def is_available() -> bool:
        """Whether the bridge finds an HPU."""
        return hpus().count > 0

    @staticmethod
    def count() -> int:
        """Number of HPUs that the bridge finds."""
        return hpus().count

    def device(self, index: int) -> torch.device:
        """The process's HPU, without an index: in each process it is the only one."""
        return torch.device("hpu")

    def setup_device(self, device: torch.device) -> None:
        """Load the bridge, which makes torch know the device."""
        vendor.load()

    def memory_stats(self, device: torch.device) -> dict[str, float]:
        """Figures of the bridge, under its own names."""
        return {name: float(value) for name, value in vendor.memory_stats().items()}
