"""What a Trainer tells of where its run takes place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchrelay.strategies.strategy import Strategy


class PlaceFacts:
    """The devices, the processes and the precision of a run.

    Attributes:
        strategy: what runs the module.
    """

    strategy: Strategy

    @property
    def accelerator(self) -> Any:
        """The kind of device."""
        return self.strategy.accelerator

    @property
    def precision_plugin(self) -> Any:
        """What converts batches and scales losses."""
        return self.strategy.precision_plugin

    @property
    def precision(self) -> str:
        """Canonical name of the precision."""
        return self.strategy.precision_plugin.name

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.strategy.world_size

    @property
    def global_rank(self) -> int:
        """This process's global rank."""
        return self.strategy.global_rank

    @property
    def local_rank(self) -> int:
        """This process's rank on its node."""
        return self.strategy.local_rank

    @property
    def node_rank(self) -> int:
        """Number of this process's node."""
        return self.strategy.node_rank

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return self.strategy.num_nodes

    @property
    def num_devices(self) -> int:
        """Devices on this node."""
        return len(self.device_ids)

    @property
    def device_ids(self) -> list[int]:
        """Numbers of this node's devices."""
        return list(self.strategy.devices)

    @property
    def is_global_zero(self) -> bool:
        """Whether this process has global rank 0."""
        return self.strategy.is_global_zero
