"""Hands a PyTorch model from one training backend to the next.

Names are imported when they are first used: `import torchrelay` imports neither torch nor any plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from torchrelay.callbacks.callback import Callback as Callback
    from torchrelay.combined_loader import CombinedLoader as CombinedLoader
    from torchrelay.datamodule import LightningDataModule as LightningDataModule
    from torchrelay.module import LightningModule as LightningModule
    from torchrelay.seed import seed_everything as seed_everything
    from torchrelay.strategies.strategy import Strategy as Strategy
    from torchrelay.trainer.trainer import Trainer as Trainer
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "Callback": ".callbacks.callback",
            "CombinedLoader": ".combined_loader",
            "LightningDataModule": ".datamodule",
            "LightningModule": ".module",
            "Strategy": ".strategies.strategy",
            "Trainer": ".trainer.trainer",
            "seed_everything": ".seed",
        },
    )
