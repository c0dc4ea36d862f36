"""CUDAAccelerator: GPUs that torch drives through CUDA, AMD's under ROCm included."""

from __future__ import annotations

import torch

from torchrelay.accelerators.accelerator import Accelerator


class CUDAAccelerator(Accelerator):
    """GPUs that torch drives through CUDA, AMD's under ROCm included."""

    name = "cuda"
    process_group_backend = "nccl"

    @staticmethod
    def is_available() -> bool:
        """Whether torch sees a GPU."""
        # torch.cuda.is_available() starts the driver by default, after which processes cannot be forked;
        # device_count() asks NVML first, which starts nothing.
        return torch.cuda.device_count() > 0

    @staticmethod
    def count() -> int:
        """Number of GPUs that torch sees; CUDA_VISIBLE_DEVICES limits them."""
        return torch.cuda.device_count()

    def device(self, index: int) -> torch.device:
        """The GPU of that index."""
        return torch.device("cuda", index)

    def setup_device(self, device: torch.device) -> None:
        """Make `device` the GPU that this process uses by default."""
        torch.cuda.set_device(device)

    def memory_stats(self, device: torch.device) -> dict[str, float]:
        """Figures of torch's caching allocator, under the names of `torch.cuda.memory_stats`."""
        return {name: float(value) for name, value in torch.cuda.memory_stats(device).items()}

    def teardown(self) -> None:
        """Give cached memory back to the GPU."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
