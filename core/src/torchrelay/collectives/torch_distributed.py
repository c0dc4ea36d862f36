"""TorchCollectives: communication through torch.distributed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from torchrelay.collectives import messages
from torchrelay.collectives.collectives import Collectives, ReduceOp
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
from torchrelay.collectives.store import open_store
from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.errors import ConfigurationError, LaunchError, TorchrelayError
from torchrelay.tree import flatten

_OPS = {
    "mean": dist.ReduceOp.SUM,
    "sum": dist.ReduceOp.SUM,
    "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
    "product": dist.ReduceOp.PRODUCT,
}

_HOST_BACKENDS = ("gloo", "mpi")

PATIENCE = 5.0
"""Seconds that `close` gives the backend to finish; what is left then ends with the process."""


NOT_CONNECTED = "not connected; call connect(environment, device) first"


class TorchCollectives(Collectives):
    """Communication through torch.distributed's default process group.

    A group that exists already when `connect` is called is used and never destroyed.

    Args:
        backend: "gloo", "nccl" or another that torch.distributed knows; torch's choice for the device when
            None.
        timeout: how long an operation may take before it fails; torch's default when None.
    """

    def __init__(self, backend: str | None = None, timeout: timedelta | None = None) -> None:
        self._requested = backend
        self._timeout = timeout
        self._backend: str | None = None
        self._device = self._wire = torch.device("cpu")
        self._rank = 0
        self._world_size = 0
        self._owns_group = self._connected = False

    @property
    def backend(self) -> str | None:
        """The backend in use; before `connect` the one asked for."""
        return self._backend or self._requested

    @property
    def rank(self) -> int:
        """This process's global rank; known also after `close`."""
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
            LaunchError: the others, or the store, cannot be reached.
            ConfigurationError: the process group that exists already is of another size or backend; or the
                device has no backend.
        """
        if dist.is_initialized():
            self._check_group(environment)
        else:
            self._make_group(environment, self._requested or _backend_of(device), device)
            self._owns_group = True
        self._backend = dist.get_backend()
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._connected = True
        self._device = device
        self._wire = torch.device("cpu") if self._backend in _HOST_BACKENDS else device

    def close(self) -> None:
        """Part from the other processes, if `connect` made the group; never waits for them."""
        self._connected = False
        if not self._owns_group:
            return
        self._owns_group = False
        if dist.is_initialized():
            # The backend waits for operations in flight, which after a failure never end.
            closing = threading.Thread(target=dist.destroy_process_group, daemon=True)
            closing.start()
            closing.join(PATIENCE)

    def reduce(self, value: Any, op: ReduceOp = "mean") -> Any:
        """Combine a value over all ranks; every rank receives the result.

        All ranks pass containers of the same structure, their mappings in the same order. The tensors in one
        container travel together. Half precisions are computed in 32 bits. No gradient flows back.

        Raises:
            ConfigurationError: no such operation, or a leaf that is neither tensor nor number.
        """
        check_op(op)
        leaves, rebuild = flatten(value)
        totals = self._reduce([as_tensor(leaf) for leaf in leaves], _OPS[op])
        return rebuild(
            [
                finish(leaf, total, op, self._world_size)
                for leaf, total in zip(leaves, totals, strict=True)
            ]
        )

    def all_gather(self, value: Any, sync_grads: bool = False) -> Any:
        """Collect tensors of equal shape from all ranks, all of a container in one go.

        With `sync_grads`, the gradient of a rank's tensor is the sum, over all ranks' losses, of the
        gradients of its slice: that of the sum of all losses. All ranks must then run the backward pass.

        Raises:
            ConfigurationError: a leaf that is neither tensor nor number.
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

        def broadcast(buffer: torch.Tensor) -> None:
            sent = buffer.to(self._wire)
            dist.broadcast(sent, src)
            if self._rank != src and sent is not buffer:
                buffer.copy_(sent)

        if self._rank == src:
            messages.send(to_message(value, self._device), broadcast)
            return value
        return from_message(messages.receive(broadcast), self._device)

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value, any object that can be pickled, in rank order, on every rank."""
        self._require_connection()
        gathered = messages.gather(to_message(value, self._device), self._rows)
        return [from_message(message, self._device) for message in gathered]

    def barrier(self, name: str = "") -> None:
        """Wait until all ranks have come here."""
        self._require_connection()
        dist.barrier(device_ids=[self._device.index] if self._backend == "nccl" else None)

    def all(self, decision: bool) -> bool:
        """Whether every rank says yes."""
        return bool(self.reduce(bool(decision), "min"))

    def any(self, decision: bool) -> bool:
        """Whether some rank says yes."""
        return bool(self.reduce(bool(decision), "max"))

    def _make_group(
        self, environment: ClusterEnvironment, backend: str, device: torch.device
    ) -> None:
        rank, world_size = environment.global_rank, environment.world_size
        excepthook = sys.excepthook
        try:
            dist.init_process_group(
                backend,
                store=open_store(environment, self._timeout),
                rank=rank,
                world_size=world_size,
                timeout=self._timeout,
                # Known, it lets NCCL connect at once, so that a bad fabric shows here.
                device_id=device if backend == "nccl" else None,
            )
        except dist.DistError as error:
            place = f"{environment.main_address}:{environment.main_port}"
            reason = str(error).partition("\n")[0]
            raise LaunchError(
                f"rank {rank} did not meet the other processes ({world_size} in all) at {place}: {reason}; "
                "see that all of them run and reach that address, and that nothing else has the port"
            ) from error
        finally:
            # torch wraps the hook at each call to put the rank before every line; after a few runs the lines are full
            # of it. Launchers name the rank that failed.
            sys.excepthook = excepthook

    def _check_group(self, environment: ClusterEnvironment) -> None:
        backend, size = dist.get_backend(), dist.get_world_size()
        if size != environment.world_size:
            raise ConfigurationError(
                f"a process group of {size} exists already, but the run has {environment.world_size} processes; "
                "call torch.distributed.destroy_process_group() before it"
            )
        if self._requested not in (None, backend):
            raise ConfigurationError(
                f"a process group of backend {backend!r} exists already, but {self._requested!r} is asked for; "
                "leave the backend out, or call torch.distributed.destroy_process_group() before"
            )

    def _require_connection(self) -> None:
        if not self._connected:
            raise TorchrelayError(NOT_CONNECTED)

    def _require_once(self) -> None:
        if not self._world_size:
            raise TorchrelayError(NOT_CONNECTED)

    def _reduce(self, tensors: Sequence[torch.Tensor], op: Any) -> list[torch.Tensor]:
        self._require_connection()

        def all_reduce(buffer: torch.Tensor) -> None:
            dist.all_reduce(buffer, op)

        return reduce_together(tensors, all_reduce, self._wire)

    def _gather(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self._require_connection()
        if not tensors:
            return []
        return from_bytes(self._rows(to_bytes(tensors, self._wire)), tensors)

    def _rows(self, payload: torch.Tensor) -> torch.Tensor:
        """The payloads (n,) of all ranks as rows (world_size, n), in rank order."""
        payload = payload.to(self._wire)
        rows = payload.new_empty(self._world_size, payload.numel())
        dist.all_gather(list(rows.unbind(0)), payload)
        return rows

    def _own_slices(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        totals = self._reduce(gradients, dist.ReduceOp.SUM)
        return [
            total[self._rank].to(gradient.device, gradient.dtype)
            for total, gradient in zip(totals, gradients, strict=True)
        ]


def _backend_of(device: torch.device) -> str:
    try:
        return dist.get_default_backend_for_device(device)
    except ValueError as error:
        raise ConfigurationError(
            f"torch.distributed has no backend for {device.type}; use one process, or name a backend"
        ) from error
