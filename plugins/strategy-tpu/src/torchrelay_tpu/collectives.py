"""XLACollectives: communication between XLA's replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchrelay.collectives import Collectives, ReduceOp
from torchrelay.collectives.gathering import gather_with_gradients
from torchrelay.collectives.packing import (
    as_tensor,
    check_op,
    finish,
    from_bytes,
    reduce_together,
    to_bytes,
)
from torchrelay.collectives.parcels import from_message, to_message
from torchrelay.environments import ClusterEnvironment
from torchrelay.errors import TorchrelayError
from torchrelay.tree import flatten
from torchrelay_tpu import vendor

SMALLEST = 1024
"""Bytes of the smallest message. The next are twice as large each, so that few sizes have to be compiled."""

CPU = torch.device("cpu")

NOTHING = torch.empty(0, dtype=torch.uint8)


class XLACollectives(Collectives):
    """Communication between XLA's replicas, by graphs of their own.

    What is sent is read off the device first, so that the graph which communicates is the same on all replicas and
    begins with data alone, whatever the sender has computed it from.
    """

    def __init__(self) -> None:
        self._device = CPU
        self._rank = self._world_size = 0
        self._connected = False

    @property
    def rank(self) -> int:
        """This replica; known also after `close`."""
        self._require_once()
        return self._rank

    @property
    def world_size(self) -> int:
        """Number of replicas; known also after `close`."""
        self._require_once()
        return self._world_size

    def connect(self, environment: ClusterEnvironment, device: torch.device) -> None:
        """Meet the other replicas. Returns once all are there."""
        self._device = device
        self._rank, self._world_size = environment.global_rank, environment.world_size
        self._connected = True
        self.barrier("connect")

    def close(self) -> None:
        """Forget the others; nothing is open."""
        self._connected = False

    def reduce(self, value: Any, op: ReduceOp = "mean") -> Any:
        """Combine a value over all replicas; every one receives the result. No gradient flows back.

        Raises:
            ConfigurationError: no such operation, or a leaf that is neither tensor nor number.
        """
        check_op(op)
        leaves, rebuild = flatten(value)
        totals = self._reduce([as_tensor(leaf) for leaf in leaves], op)
        return rebuild(
            [
                finish(leaf, total, op, self._world_size)
                for leaf, total in zip(leaves, totals, strict=True)
            ]
        )

    def all_gather(self, value: Any, sync_grads: bool = False) -> Any:
        """Collect tensors of equal shape from all replicas, all of a container in one go.

        With `sync_grads`, the gradient of a replica's tensor is the sum, over all losses, of its slice's.

        Raises:
            ConfigurationError: a leaf that is neither tensor nor number.
        """
        leaves, rebuild = flatten(value)
        tensors = [as_tensor(leaf) for leaf in leaves]
        if not sync_grads:
            return rebuild(self._gather(tensors))
        return rebuild(gather_with_gradients(tensors, self._gather, self._own_slices))

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """Return replica `src`'s value, any object that can be pickled, on every replica.

        Tensors on the sender's device arrive on the receiver's.
        """
        self._require_connection()
        mine = self._rank == src
        sent = to_message(value, self._device) if mine else NOTHING
        # The others send zeros.
        received = vendor.all_reduce(self._padded(sent), "sum", self._device)
        return value if mine else from_message(received, self._device)

    def gather_objects(self, value: Any) -> list[Any]:
        """Every replica's value, any object that can be pickled, in rank order, on every replica."""
        self._require_connection()
        rows = vendor.all_gather(self._padded(to_message(value, self._device)), self._device)
        return [from_message(row, self._device) for row in rows]

    def barrier(self, name: str = "") -> None:
        """Wait until all replicas have come here."""
        self._require_connection()
        vendor.all_reduce(torch.zeros(1), "sum", self._device)

    def all(self, decision: bool) -> bool:
        """Whether every replica says yes."""
        return bool(self.reduce(bool(decision), "min"))

    def any(self, decision: bool) -> bool:
        """Whether some replica says yes."""
        return bool(self.reduce(bool(decision), "max"))

    # --- how --------------------------------------------------------------------------------------------

    def _reduce(self, tensors: Sequence[torch.Tensor], op: ReduceOp) -> list[torch.Tensor]:
        self._require_connection()

        def all_reduce(buffer: torch.Tensor) -> None:
            buffer.copy_(vendor.all_reduce(buffer, op, self._device))

        return reduce_together(tensors, all_reduce, CPU)

    def _gather(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self._require_connection()
        payload = to_bytes(tensors, CPU) if tensors else torch.empty(0)
        if not payload.numel():
            return [each.new_empty(self._world_size, *each.shape) for each in tensors]
        return from_bytes(vendor.all_gather(payload, self._device), tensors)

    def _own_slices(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        totals = self._reduce(gradients, "sum")
        return [
            total[self._rank].to(gradient.device, gradient.dtype)
            for total, gradient in zip(totals, gradients, strict=True)
        ]

    def _padded(self, message: torch.Tensor) -> torch.Tensor:
        """Bytes, and zeros up to a size that is enough for every replica."""
        size = message.numel()
        largest = int(vendor.all_reduce(torch.tensor([size]), "max", self._device))
        room = max(SMALLEST, 1 << (largest - 1).bit_length())
        return torch.nn.functional.pad(message, (0, room - size))

    def _require_connection(self) -> None:
        """Run what is pending, on every replica, so that what communicates is a graph of its own."""
        if not self._connected:
            raise TorchrelayError("not connected; call connect(environment, device) first")
        vendor.sync()

    def _require_once(self) -> None:
        if not self._world_size:
            raise TorchrelayError("not connected; call connect(environment, device) first")
