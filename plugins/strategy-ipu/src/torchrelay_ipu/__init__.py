"""IPU strategy for torchrelay: whole windows of batches are handed to steps that PopTorch compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_ipu.accelerator import IPUAccelerator as IPUAccelerator
    from torchrelay_ipu.strategy import IPUStrategy as IPUStrategy
else:
    __getattr__, __dir__, __all__ = attach(
        __name__, {"IPUAccelerator": ".accelerator", "IPUStrategy": ".strategy"}
    )
