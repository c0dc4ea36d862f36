"""ParallelStrategy: several processes, one device each, which the cluster environment numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchrelay.errors import ConfigurationError
from torchrelay.strategies.strategy import Strategy


class ParallelStrategy(Strategy):
    """Several processes, one device each; the cluster environment tells which this one is.

    Args:
        parallel_devices: the devices of this node, in the order of local ranks; those that the Trainer chose
            when None.
        components: see `Strategy`.
    """

    def __init__(
        self, *, parallel_devices: Sequence[torch.device] | None = None, **components: Any
    ) -> None:
        super().__init__(**components)
        self.parallel_devices = None if parallel_devices is None else list(parallel_devices)

    @property
    def given(self) -> dict[str, object]:
        """The components that the user gave, the devices among them."""
        devices = {} if self.parallel_devices is None else {"devices": self.parallel_devices}
        return {**super().given, **devices}

    def setup_environment(self) -> None:
        """Meet the others, who have to be as many as there are devices.

        Raises:
            ConfigurationError: they are not, and each would train alone on its part of the data.
        """
        super().setup_environment()
        met = self.collectives.world_size
        if met != self.world_size:
            raise ConfigurationError(
                f"{type(self).__name__} asks for {self.world_size} processes and {met} met; its default_launcher has "
                "to start them (ScriptLauncher, MultiProcessingLauncher), or a cluster has to: torchrun "
                f"--nproc-per-node {self.processes_per_node}"
            )

    @property
    def root_device(self) -> torch.device:
        """The device of this process: of those chosen, the one at its local rank."""
        if self.parallel_devices is not None:
            return self.parallel_devices[self.local_rank]
        return self.accelerator.device(self.devices[self.local_rank])

    @property
    def processes_per_node(self) -> int:
        """Processes on each node."""
        return len(self.devices)

    @property
    def world_size(self) -> int:
        """Number of processes of the run."""
        return self.processes_per_node * self.num_nodes

    @property
    def global_rank(self) -> int:
        """This process among all of the run."""
        return self.cluster_environment.global_rank

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""
        return self.cluster_environment.local_rank

    @property
    def node_rank(self) -> int:
        """This node among those of the run."""
        return self.cluster_environment.node_rank

    @property
    def sampler_arguments(self) -> dict[str, int] | None:
        """Each process reads its share of the data."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}
