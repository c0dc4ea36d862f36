"""XLAAccelerator: TPUs, or the processor where `PJRT_DEVICE=CPU` asks for it."""

from __future__ import annotations

import importlib.util

import torch

from torchrelay.accelerators import Accelerator
from torchrelay_tpu import vendor
from torchrelay_tpu.noise import beginning
from torchrelay_tpu.probe import probe


class XLAAccelerator(Accelerator):
    """TPUs, or the processor where `PJRT_DEVICE=CPU` asks for it, as XLA drives them.

    Nothing here touches a device before `setup_device`: processes could not be launched any more.
    """

    name = "tpu"

    @staticmethod
    def is_available() -> bool:
        """Whether torch-xla is here, and something for it to drive."""
        return importlib.util.find_spec("torch_xla") is not None and probe().count > 0

    @staticmethod
    def count() -> int:
        """Number of devices of this machine."""
        return probe().count

    def device(self, index: int) -> torch.device:
        """The XLA device of that index in this process."""
        return torch.device("xla", index)

    def setup_device(self, device: torch.device) -> None:
        """Start XLA on a device, and seed that as torch's generator is seeded.

        Raises:
            LaunchError: a backward pass ran before XLA was started.
        """
        vendor.start(device, beginning())

    def memory_stats(self, device: torch.device) -> dict[str, float]:
        """`bytes_used`, `bytes_limit` and `peak_bytes_used`; nothing where XLA does not tell, as on the processor."""
        return vendor.memory_stats(device)

    def teardown(self) -> None:
        """Put back the environment variables that torch-xla has set."""
        vendor.stop()
