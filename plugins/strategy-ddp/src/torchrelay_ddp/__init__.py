"""DistributedDataParallel and DataParallel strategies for torchrelay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchrelay_ddp.data_parallel import DataParallelStrategy as DataParallelStrategy
    from torchrelay_ddp.data_parallel import DDP2Strategy as DDP2Strategy
    from torchrelay_ddp.strategy import DDPSpawnStrategy as DDPSpawnStrategy
    from torchrelay_ddp.strategy import DDPStrategy as DDPStrategy

_MODULES = {
    "DDP2Strategy": "data_parallel",
    "DDPSpawnStrategy": "strategy",
    "DDPStrategy": "strategy",
    "DataParallelStrategy": "data_parallel",
}

__all__ = ["DDP2Strategy", "DDPSpawnStrategy", "DDPStrategy", "DataParallelStrategy"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
