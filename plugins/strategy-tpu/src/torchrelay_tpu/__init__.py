"""torch-xla strategies for torchrelay: one device, several replicas, or one process that is sharded by annotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_tpu.accelerator import XLAAccelerator as XLAAccelerator
    from torchrelay_tpu.checkpoint_io import XLACheckpointIO as XLACheckpointIO
    from torchrelay_tpu.collectives import XLACollectives as XLACollectives
    from torchrelay_tpu.environment import XLAEnvironment as XLAEnvironment
    from torchrelay_tpu.launcher import XLALauncher as XLALauncher
    from torchrelay_tpu.spawn import TPUSpawnStrategy as TPUSpawnStrategy
    from torchrelay_tpu.spmd import XLASPMDStrategy as XLASPMDStrategy
    from torchrelay_tpu.strategy import SingleTPUStrategy as SingleTPUStrategy
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "SingleTPUStrategy": ".strategy",
            "TPUSpawnStrategy": ".spawn",
            "XLAAccelerator": ".accelerator",
            "XLACheckpointIO": ".checkpoint_io",
            "XLACollectives": ".collectives",
            "XLAEnvironment": ".environment",
            "XLALauncher": ".launcher",
            "XLASPMDStrategy": ".spmd",
        },
    )
