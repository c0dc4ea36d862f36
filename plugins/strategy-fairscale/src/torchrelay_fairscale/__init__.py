"""FairScale strategies for torchrelay: sharded optimizers and fully sharded data parallel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_fairscale.config import FullyShardedConfig as FullyShardedConfig
    from torchrelay_fairscale.fully_sharded import (
        DDPFullyShardedStrategy as DDPFullyShardedStrategy,
    )
    from torchrelay_fairscale.strategy import DDPShardedStrategy as DDPShardedStrategy
    from torchrelay_fairscale.strategy import DDPSpawnShardedStrategy as DDPSpawnShardedStrategy
    from torchrelay_fairscale.vendor import checkpoint_wrapper as checkpoint_wrapper
    from torchrelay_fairscale.vendor import wrap as wrap
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "DDPFullyShardedStrategy": ".fully_sharded",
            "DDPShardedStrategy": ".strategy",
            "DDPSpawnShardedStrategy": ".strategy",
            "FullyShardedConfig": ".config",
            "checkpoint_wrapper": ".vendor",
            "wrap": ".vendor",
        },
    )
