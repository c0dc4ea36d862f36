"""Which process this is, among those of a run."""

from __future__ import annotations

from abc import abstractmethod

import torch

from torchrelay.strategies.components import Composed


class Ranked(Composed):
    """Knows this process's device and its place in the run; by default the only one."""

    @property
    @abstractmethod
    def root_device(self) -> torch.device:
        """The device of this process."""

    @property
    def world_size(self) -> int:
        """Number of processes of the run."""
        return 1

    @property
    def global_rank(self) -> int:
        """This process among all of the run."""
        return 0

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""
        return 0

    @property
    def node_rank(self) -> int:
        """This node among those of the run."""
        return 0

    @property
    def is_global_zero(self) -> bool:
        """Whether this process has global rank 0."""
        return self.global_rank == 0

    @property
    def sampler_arguments(self) -> dict[str, int] | None:
        """`num_replicas` and `rank` for a distributed sampler; None where each process reads all the data."""
        return None
