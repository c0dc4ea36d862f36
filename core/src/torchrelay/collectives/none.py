"""NoCollectives: one process has nobody to communicate with."""

from __future__ import annotations

from typing import Any

import torch

from torchrelay.collectives.collectives import Collectives, ReduceOp
from torchrelay.collectives.packing import as_tensor, check_op
from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.tree import map_leaves


class NoCollectives(Collectives):
    """A world of one: what goes in comes out."""

    @property
    def rank(self) -> int:
        """0."""
        return 0

    @property
    def world_size(self) -> int:
        """1."""
        return 1

    def connect(self, environment: ClusterEnvironment, device: torch.device) -> None:
        """Nobody to meet."""

    def close(self) -> None:
        """Nobody to part from."""

    def reduce(self, value: Any, op: ReduceOp = "mean") -> Any:
        """The value itself.

        Raises:
            ConfigurationError: no such operation.
        """
        check_op(op)
        return value

    def all_gather(self, value: Any, sync_grads: bool = False) -> Any:
        """The value with a leading dimension of 1 for the world."""

        def gather(leaf: Any) -> torch.Tensor:
            tensor = as_tensor(leaf)
            return (tensor if sync_grads else tensor.detach()).unsqueeze(0)

        return map_leaves(value, gather)

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """The value itself."""
        return value

    def barrier(self, name: str = "") -> None:
        """Nobody to wait for."""

    def all(self, decision: bool) -> bool:
        """The decision itself."""
        return bool(decision)

    def any(self, decision: bool) -> bool:
        """The decision itself."""
        return bool(decision)
