"""MPSAccelerator: the GPU of an Apple silicon Mac, through Metal."""

from __future__ import annotations

import torch

from torchrelay.accelerators.accelerator import Accelerator


class MPSAccelerator(Accelerator):
    """The GPU of an Apple silicon Mac; there is one, and torch.distributed cannot use it."""

    name = "mps"

    @staticmethod
    def is_available() -> bool:
        """Whether torch was built with Metal and the system has it."""
        return torch.backends.mps.is_available()

    @staticmethod
    def count() -> int:
        """One where there is any."""
        return int(torch.backends.mps.is_available())

    def device(self, index: int) -> torch.device:
        """The GPU."""
        return torch.device("mps", index)

    def memory_stats(self, device: torch.device) -> dict[str, float]:
        """`current_allocated` by tensors and `driver_allocated` in all, in bytes."""
        return {
            "current_allocated": float(torch.mps.current_allocated_memory()),
            "driver_allocated": float(torch.mps.driver_allocated_memory()),
        }

    def teardown(self) -> None:
        """Give cached memory back to the system."""
        if self.is_available():
            torch.mps.empty_cache()
