"""torch-xla strategies for torchrelay: one device, several replicas, or one process that is sharded by annotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_tpu.accelerator import XLAAccelerator as XLAAccelerator
    from torchrelay_tpu.strategy import SingleTPUStrategy as SingleTPUStrategy
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "SingleTPUStrategy": ".strategy",
            "XLAAccelerator": ".accelerator",
        },
    )
