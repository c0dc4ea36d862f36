"""Kinds of device: the processor, CUDA GPUs, Apple's GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.accelerators.accelerator import Accelerator as Accelerator
    from torchrelay.accelerators.cpu import CPUAccelerator as CPUAccelerator
    from torchrelay.accelerators.cuda import CUDAAccelerator as CUDAAccelerator
    from torchrelay.accelerators.mps import MPSAccelerator as MPSAccelerator
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "Accelerator": ".accelerator",
            "CPUAccelerator": ".cpu",
            "CUDAAccelerator": ".cuda",
            "MPSAccelerator": ".mps",
        },
    )
