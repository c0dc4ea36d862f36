"""Collectives: how the processes of a run communicate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch

from torchrelay.environments.environment import ClusterEnvironment

ReduceOp = Literal["mean", "sum", "min", "max", "product"]


class Collectives(ABC):
    """How the processes of a run communicate.

    Every method but `connect` and `close` is collective: all ranks call it, in the same order.
    """

    @property
    @abstractmethod
    def rank(self) -> int:
        """This process's global rank."""

    @property
    @abstractmethod
    def world_size(self) -> int:
        """Number of processes."""

    @abstractmethod
    def connect(self, environment: ClusterEnvironment, device: torch.device) -> None:
        """Meet the other processes. Returns once all are there.

        Args:
            environment: says where to meet and which process this is.
            device: the device of this process's tensors.
        """

    @abstractmethod
    def close(self) -> None:
        """Part from the other processes; never waits for them."""

    @abstractmethod
    def reduce(self, value: Any, op: ReduceOp = "mean") -> Any:
        """Combine a value over all ranks; every rank receives the result.

        Args:
            value: a tensor of any shape and type, a number, or nested lists, tuples and dicts of them.
            op: "mean" of integers is computed in floating point and keeps the fraction.

        Returns:
            New tensors of the same shape, in the same containers; the input is left alone.
        """

    @abstractmethod
    def all_gather(self, value: Any, sync_grads: bool = False) -> Any:
        """Collect tensors of equal shape from all ranks.

        Args:
            value: a tensor, a number, or nested containers of them.
            sync_grads: let gradients flow back to the rank that each slice came from.

        Returns:
            For a tensor of shape (*s), one of shape (world_size, *s), in rank order.
        """

    @abstractmethod
    def broadcast(self, value: Any, src: int = 0) -> Any:
        """Return rank `src`'s value, any object that can be pickled, on every rank."""

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value, any object that can be pickled, in rank order, on every rank."""
        return [self.broadcast(value, src=rank) for rank in range(self.world_size)]

    @abstractmethod
    def barrier(self, name: str = "") -> None:
        """Wait until all ranks have come here; `name` is for messages and logs."""

    @abstractmethod
    def all(self, decision: bool) -> bool:
        """Whether every rank says yes."""

    @abstractmethod
    def any(self, decision: bool) -> bool:
        """Whether some rank says yes."""
