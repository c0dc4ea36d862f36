"""DistributedDataParallel and DataParallel strategies for torchrelay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_ddp.data_parallel import DataParallelStrategy as DataParallelStrategy
    from torchrelay_ddp.data_parallel import DDP2Strategy as DDP2Strategy
    from torchrelay_ddp.strategy import DDPSpawnStrategy as DDPSpawnStrategy
    from torchrelay_ddp.strategy import DDPStrategy as DDPStrategy
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "DDP2Strategy": ".data_parallel",
            "DDPSpawnStrategy": ".strategy",
            "DDPStrategy": ".strategy",
            "DataParallelStrategy": ".data_parallel",
        },
    )
