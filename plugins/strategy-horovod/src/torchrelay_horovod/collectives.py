"""HorovodCollectives: communication through Horovod, each operation by a name of its own.

Horovod numbers an operation that has no name, and ranks that have made different numbers of them wait for ever. One
that has a name waits for the operation of that name, and Horovod's stall check says which ranks have not come to it.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping, Sequence
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
from torchrelay.collectives.parcels import pack, unpack
from torchrelay.environments import ClusterEnvironment
from torchrelay.errors import ConfigurationError, LaunchError, TorchrelayError, UnsupportedError
from torchrelay.tree import flatten
from torchrelay_horovod import vendor
from torchrelay_horovod.environment import HorovodEnvironment
from torchrelay_horovod.rendezvous import meeting

PATIENCE = 5.0
"""Seconds that `close` gives Horovod to finish; what is left then ends with the process."""

NAME = "torchrelay"
"""What every name begins with, so that it is none of the user's own."""


class HorovodCollectives(Collectives):
    """Communication through Horovod.

    Horovod that is connected already when `connect` is called is used and never shut down.

    Args:
        process_sets: groups of global ranks that are to communicate among themselves; see `within`.
    """

    def __init__(self, process_sets: Sequence[Sequence[int]] = ()) -> None:
        self.process_sets = tuple(tuple(sorted(ranks)) for ranks in process_sets)
        self._device = torch.device("cpu")
        self._rank = self._world_size = 0
        self._owns = self._connected = False
        self._groups: dict[tuple[int, ...], Any] = {}
        self._ranks: tuple[int, ...] | None = None

    @property
    def rank(self) -> int:
        """This process's global rank, or its place in the process set; known also after `close`."""
        self._require_once()
        return self._rank

    @property
    def world_size(self) -> int:
        """Number of processes; known also after `close`."""
        self._require_once()
        return self._world_size

    def connect(self, environment: ClusterEnvironment, device: torch.device) -> None:
        """Meet the other processes. Returns once all are there.

        Raises:
            LaunchError: they cannot be met, or Horovod meets others than the environment says.
            ConfigurationError: a process set has ranks that are not there, or Horovod is connected without it.
        """
        self._device = device
        if vendor.is_started():
            if self.process_sets:
                raise ConfigurationError(
                    "Horovod is connected already, without the strategy's process_sets; leave hvd.init() to the "
                    "strategy"
                )
            self._rank, self._world_size, self._connected = *vendor.place(), True
            return
        self._check_process_sets(environment.world_size)
        with meeting(environment) as variables:
            self._meet(variables)
        if isinstance(environment, HorovodEnvironment) and environment.elastic:
            # Horovod puts a changed place into the C library's environment, of which Python has a copy.
            os.environ.update(vendor.variables_now())
        if self._world_size != environment.world_size:
            self.close()
            raise LaunchError(
                f"{environment.name} started {environment.world_size} processes, and Horovod met {self._world_size}; "
                "start them with horovodrun -np PROCESSES python train.py"
            )

    def _meet(self, variables: Mapping[str, str]) -> None:
        sets = vendor.start(self.process_sets, variables)
        self._owns = self._connected = True
        self._groups = dict(zip(self.process_sets, sets, strict=True))
        self._rank, self._world_size = vendor.place()
        self.barrier("connect")

    def _check_process_sets(self, world_size: int) -> None:
        for ranks in self.process_sets:
            if not ranks or ranks[0] < 0 or ranks[-1] >= world_size or len({*ranks}) < len(ranks):
                raise ConfigurationError(
                    f"process_sets has {list(ranks)}; a set names some of the ranks 0 to {world_size - 1}, each once"
                )

    def close(self) -> None:
        """Part from the other processes, if `connect` met them; never waits for them."""
        self._connected = False
        self._groups = {}
        if self._owns:
            self._owns = False
            # Horovod's thread finishes what it is at, which after a failure may never end.
            closing = threading.Thread(target=vendor.stop, daemon=True)
            closing.start()
            closing.join(PATIENCE)

    def within(self, group: Sequence[int]) -> HorovodCollectives:
        """Collectives of some ranks alone, one of the process sets; called by these ranks alone.

        Raises:
            ConfigurationError: it is none of the process sets, or this rank is not in it.
        """
        self._require_connection()
        ranks = tuple(sorted(group))
        if ranks == tuple(range(self._world_size)):
            return self
        if ranks not in self._groups:
            known = ", ".join(str(list(each)) for each in self._groups) or "none"
            raise ConfigurationError(
                f"group={list(group)} is no process set; there are {known}: name it when the strategy is made, "
                f"HorovodStrategy(process_sets=[{list(ranks)}])"
            )
        if self._rank not in ranks:
            raise ConfigurationError(
                f"rank {self._rank} is not in group={list(group)}; only the ranks of a group may call"
            )
        inner = copy.copy(self)
        place = {"_rank": ranks.index(self._rank), "_world_size": len(ranks)}
        vars(inner).update(_ranks=ranks, _owns=False, **place)
        return inner

    @property
    def _group(self) -> Any:
        return None if self._ranks is None else self._groups[self._ranks]

    # --- operations -------------------------------------------------------------------------------------

    def reduce(self, value: Any, op: ReduceOp = "mean") -> Any:
        """Combine a value over all ranks; every rank receives the result.

        All ranks pass containers of the same structure, their mappings in the same order. The tensors in one
        container travel together. What Horovod cannot reduce, bfloat16, booleans, small integers, travels in a wider
        type. No gradient flows back.

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
        """Collect tensors of equal shape from all ranks, all of a container in one go.

        With `sync_grads`, the gradient of a rank's tensor is the sum, over all ranks' losses, of the gradients of its
        slice, as under torch.distributed; Horovod's own gradient would be their average.

        Raises:
            ConfigurationError: a leaf that is neither tensor nor number, or shapes that differ between ranks.
        """
        leaves, rebuild = flatten(value)
        tensors = [as_tensor(leaf) for leaf in leaves]
        if not sync_grads:
            return rebuild(self._gather(tensors))
        return rebuild(gather_with_gradients(tensors, self._gather, self._own_slices))

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """Return rank `src`'s value, any object that can be pickled, on every rank.

        Tensors on the sender's device arrive on the receiver's.
        """
        self._require_connection()
        sender = src if self._ranks is None else self._ranks[src]
        parcel = pack(value, self._device) if self._rank == src else None
        parcel = vendor.broadcast_object(parcel, sender, f"{NAME}.broadcast.{src}", self._group)
        return value if self._rank == src else unpack(parcel, self._device)

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value, any object that can be pickled, in rank order, on every rank."""
        self._require_connection()
        if self._ranks is not None:
            return super().gather_objects(value)
        parcels = vendor.gather_objects(pack(value, self._device), f"{NAME}.gather_objects")
        return [unpack(parcel, self._device) for parcel in parcels]

    def barrier(self, name: str = "") -> None:
        """Wait until all ranks have come to the barrier of this name; Horovod's own has none."""
        self._reduce_buffer(torch.zeros(1), "sum", f"{NAME}.barrier.{name}")

    def all(self, decision: bool) -> bool:
        """Whether every rank says yes."""
        return bool(self.reduce(bool(decision), "min"))

    def any(self, decision: bool) -> bool:
        """Whether some rank says yes."""
        return bool(self.reduce(bool(decision), "max"))

    @torch.no_grad()
    def share(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Give every rank rank 0's tensors, in place, whatever their types. Collective.

        Args:
            tensors: by name, which has to be the same on all ranks.
        """
        self._require_connection()
        buffers = {
            f"{NAME}.share.{name}": to_bytes([tensor], self._device)
            for name, tensor in tensors.items()
            if tensor.numel()
        }
        vendor.broadcast_in_place(buffers, 0)
        for name, tensor in tensors.items():
            if tensor.numel():
                rows = buffers[f"{NAME}.share.{name}"].unsqueeze(0)
                (received,) = from_bytes(rows, [tensor])
                tensor.copy_(received[0])

    # --- how --------------------------------------------------------------------------------------------

    def _reduce(self, tensors: Sequence[torch.Tensor], op: ReduceOp) -> list[torch.Tensor]:
        def all_reduce(buffer: torch.Tensor) -> None:
            if buffer.is_complex():
                if op not in ("mean", "sum"):
                    raise UnsupportedError(f"Horovod has no {op} of complex numbers")
                buffer = torch.view_as_real(buffer)
            self._reduce_buffer(buffer, op, f"{NAME}.reduce.{op}.{buffer.dtype}")

        return reduce_together(tensors, all_reduce, self._device)

    def _reduce_buffer(self, buffer: torch.Tensor, op: ReduceOp, name: str) -> None:
        self._require_connection()
        if buffer.numel():
            vendor.reduce_in_place(buffer, op, name, self._group)

    def _gather(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self._require_connection()
        payload = to_bytes(tensors, self._device) if tensors else torch.empty(0)
        if not payload.numel():
            return [each.new_empty(self._world_size, *each.shape) for each in tensors]
        return from_bytes(vendor.gather(payload, f"{NAME}.all_gather", self._group), tensors)

    def _own_slices(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        totals = self._reduce(gradients, "sum")
        return [
            total[self._rank].to(gradient.device, gradient.dtype)
            for total, gradient in zip(totals, gradients, strict=True)
        ]

    def _require_connection(self) -> None:
        if not self._connected:
            raise TorchrelayError("not connected; call connect(environment, device) first")

    def _require_once(self) -> None:
        if not self._world_size:
            raise TorchrelayError("not connected; call connect(environment, device) first")
