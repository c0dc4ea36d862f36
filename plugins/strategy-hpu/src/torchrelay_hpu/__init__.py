"""HPU strategies for torchrelay: Intel Gaudi through Habana's PyTorch bridge, one process a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_hpu.accelerator import HPUAccelerator as HPUAccelerator
    from torchrelay_hpu.collectives import HCCLCollectives as HCCLCollectives
    from torchrelay_hpu.precision import FP8Precision as FP8Precision
    from torchrelay_hpu.strategy import HPUParallelStrategy as HPUParallelStrategy
    from torchrelay_hpu.strategy import SingleHPUStrategy as SingleHPUStrategy
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "FP8Precision": ".precision",
            "HCCLCollectives": ".collectives",
            "HPUAccelerator": ".accelerator",
            "HPUParallelStrategy": ".strategy",
            "SingleHPUStrategy": ".strategy",
        },
    )
