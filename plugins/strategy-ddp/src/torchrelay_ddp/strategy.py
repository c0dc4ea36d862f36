"""DDPStrategy: one process a device, each with the whole model; gradients are averaged during backward."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from torchrelay.plugin import Capabilities, Capability
from torchrelay.strategies import Needs, StartMethod
from torchrelay_ddp.distributed import Distributed
from torchrelay_ddp.plugin import DDP_CAPABILITIES, SYNC_BATCHNORM_NEEDS_GPUS


class DDPStrategy(Distributed):
    """One process a device, each with the whole model; gradients are averaged during backward.

    Override `configure_ddp` to wrap the model yourself.

    Args:
        options: see `Distributed`: `start_method`, `process_group_backend`, `timeout`, `ddp_comm_hook`,
            `ddp_comm_state`, `ddp_comm_wrapper`, `model_averaging_period`, the components of a strategy,
            `parallel_devices`, and the arguments of `torch.nn.parallel.DistributedDataParallel`;
            `gradient_as_bucket_view` is on unless turned off.

    Raises:
        ConfigurationError: an option is unknown, needs another, or excludes another.
    """

    capabilities: ClassVar[Capabilities] = DDP_CAPABILITIES

    def refusals(self, needs: Needs) -> list[str]:
        """No accelerator without collectives, no SyncBatchNorm where torch has none, no hook that nobody calls."""
        reasons = super().refusals(needs)
        if self.sync_batchnorm and self.accelerator.name == "cpu":
            reasons.append(f"sync_batchnorm=True: {SYNC_BATCHNORM_NEEDS_GPUS}")
        by_hand = needs.capabilities.get(Capability.MANUAL_OPTIMIZATION)
        if by_hand and self.communication.hook is not None:
            reasons.append(
                f"{by_hand} optimizes by hand, where gradients are averaged without ddp_comm_hook; leave the hook out"
            )
        return reasons

    def place(self) -> None:
        """Move the model; synchronised batch norm first, so that the wrapper sees the final modules."""
        if self.sync_batchnorm:
            convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
            self.adopt(convert(self.module))
        super().place()

    @property
    def device_ids(self) -> list[int] | None:
        """What DistributedDataParallel is to be told of this process's device: its index; None on the CPU."""
        index = self.root_device.index
        return None if index is None or self.root_device.type == "cpu" else [index]


class DDPSpawnStrategy(DDPStrategy):
    """DDPStrategy in processes that are started from this one.

    Args:
        start_method: "spawn" or "fork".
        options: see `DDPStrategy`.
    """

    def __init__(self, *, start_method: StartMethod = "spawn", **options: Any) -> None:
        super().__init__(start_method=start_method, **options)
