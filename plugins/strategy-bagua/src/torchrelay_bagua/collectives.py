"""BaguaCollectives: communication through Bagua, which sends few formats and combines them by few operations."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, get_args

import torch
import torch.distributed as dist

from torchrelay.collectives import Collectives, ReduceOp
from torchrelay.collectives.gathering import gather_with_gradients
from torchrelay.collectives.packing import (
    as_tensor,
    finish,
    from_bytes,
    reduce_together,
    to_bytes,
)
from torchrelay.collectives.parcels import pack, unpack
from torchrelay.collectives.store import open_store
from torchrelay.environments import ClusterEnvironment
from torchrelay.errors import ConfigurationError, TorchrelayError
from torchrelay.tree import flatten
from torchrelay_bagua import vendor
from torchrelay_bagua.others import Others

NATIVE = {"mean": "AVG", "sum": "SUM", "min": "MIN", "max": "MAX", "product": "PRODUCT"}
"""torchrelay's operations under the names of Bagua's `ReduceOp`."""

BITWISE: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "band": torch.bitwise_and,
    "bor": torch.bitwise_or,
    "bxor": torch.bitwise_xor,
}
"""Operations that Bagua has a name for, and NCCL, by which it communicates, has not."""

PATIENCE = 5.0
"""Seconds that `close` gives torch's process group to finish."""

OPEN_PORT = (
    "Bagua's service, a process of its own, listens on every network interface of this machine, without a password, "
    "until this process ends, and after it if that is killed; BAGUA_SERVICE_PORT names its port, which a firewall "
    "should close"
)

_others = Others()

_logger = logging.getLogger("torchrelay")


class BaguaCollectives(Collectives):
    """Communication through Bagua, whose connection is made once in a process and never ended.

    16- and 32-bit floats and integers are combined by Bagua; 64-bit floats, complex numbers and bits, which it does not
    combine, are gathered and combined by each rank.

    Args:
        autotune: let Bagua's service try sizes of buckets while training; as BAGUA_AUTOTUNE says when None, and not at
            all where that is not set either.
    """

    def __init__(self, autotune: bool | None = None) -> None:
        self._autotune = autotune
        self._device = torch.device("cpu")
        self._rank = self._world_size = 0
        self._connected = self._owns_group = False
        self._before: dict[str, str | None] | None = None

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
        """Meet the other processes; the device has been chosen already. Returns once all are there.

        Raises:
            LaunchError: they cannot be met, or Bagua is connected to processes that are gone.
            ConfigurationError: Bagua is connected already, to another number of processes.
        """
        started = vendor.is_started()
        if started:
            _others.check(environment, self.tuned)
        self._before = vendor.environment()
        os.environ.update(self._variables(environment))
        if not started:
            self._meet(environment)
        self._rank, self._world_size = environment.global_rank, environment.world_size
        self._device = device
        self._connected = True
        vendor.barrier()

    def _meet(self, environment: ClusterEnvironment) -> None:
        self._owns_group = not dist.is_initialized()
        rank, size = environment.global_rank, environment.world_size
        if rank == 0:
            _logger.warning(OPEN_PORT)
        vendor.start(open_store(environment), rank, size, environment.local_world_size)
        _others.met(environment, self.tuned)

    @property
    def tuned(self) -> bool:
        """Whether Bagua's service is to try sizes of buckets."""
        return self._level not in ("", "0")

    @property
    def _level(self) -> str:
        if self._autotune is None:
            return os.environ.get("BAGUA_AUTOTUNE", "0")
        return "01"[self._autotune]

    def _variables(self, environment: ClusterEnvironment) -> dict[str, str]:
        return {
            "BAGUA_AUTOTUNE": self._level,
            "LOCAL_RANK": str(environment.local_rank),
            "LOCAL_WORLD_SIZE": str(environment.local_world_size),
            "MASTER_ADDR": environment.main_address,
            "NODE_RANK": str(environment.node_rank),
            "RANK": str(environment.global_rank),
            "WORLD_SIZE": str(environment.world_size),
        }

    def close(self) -> None:
        """Put the environment back; Bagua has no function that ends its connection.

        It makes a process group of torch's, which it does not use; that one goes.
        """
        self._connected = False
        if self._owns_group and dist.is_initialized():
            # The backend waits for operations in flight, which after a failure never end.
            closing = threading.Thread(target=dist.destroy_process_group, daemon=True)
            closing.start()
            closing.join(PATIENCE)
        self._owns_group = False
        if self._before is not None:
            vendor.restore(self._before)
            self._before = None

    def lose(self, error: BaseException) -> None:
        """Hear that the run has failed, so that the other processes are being ended; no collective."""
        if self._world_size > 1:
            _others.lose(error)

    # --- operations -------------------------------------------------------------------------------------

    def reduce(self, value: Any, op: ReduceOp | str = "mean") -> Any:
        """Combine a value over all ranks; every rank receives the result.

        All ranks pass containers of the same structure, their mappings in the same order. The tensors in one container
        travel together. Half precisions are computed in 32 bits. No gradient flows back.

        Args:
            value: a tensor of any shape and type, a number, or nested lists, tuples and dicts of them.
            op: one of torchrelay's, or "band", "bor" or "bxor" of integers and booleans.

        Raises:
            ConfigurationError: no such operation, bits of a floating-point number, or a leaf that is neither tensor
                nor number.
        """
        if op not in (*get_args(ReduceOp), *BITWISE):
            known = ", ".join((*get_args(ReduceOp), *BITWISE))
            raise ConfigurationError(f"reduce cannot do {op!r}; choose one of {known}")
        leaves, rebuild = flatten(value)
        tensors = [as_tensor(leaf) for leaf in leaves]
        if op in BITWISE:
            return rebuild(self._bits(leaves, tensors, op))
        totals = self._totals(tensors, op)
        return rebuild(
            [
                finish(leaf, total, _left(op, total), self._world_size)
                for leaf, total in zip(leaves, totals, strict=True)
            ]
        )

    def all_gather(self, value: Any, sync_grads: bool = False) -> Any:
        """Collect tensors of equal shape from all ranks, all of a container in one go.

        With `sync_grads`, the gradient of a rank's tensor is the sum, over all ranks' losses, of the gradients of its
        slice. All ranks must then run the backward pass.

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
        parcel = pack(value, self._device) if self._rank == src else None
        parcel = vendor.broadcast_object(parcel, src)
        return value if self._rank == src else unpack(parcel, self._device)

    def barrier(self, name: str = "") -> None:
        """Wait until all ranks have come here."""
        self._require_connection()
        vendor.barrier()

    def all(self, decision: bool) -> bool:
        """Whether every rank says yes."""
        return bool(self.reduce(bool(decision), "min"))

    def any(self, decision: bool) -> bool:
        """Whether some rank says yes."""
        return bool(self.reduce(bool(decision), "max"))

    # --- how --------------------------------------------------------------------------------------------

    def _totals(self, tensors: Sequence[torch.Tensor], op: str) -> list[torch.Tensor]:
        """What is combined; a mean is left as the sum, but for what Bagua averages."""
        self._require_connection()

        def all_reduce(buffer: torch.Tensor) -> None:
            if not buffer.numel():
                return
            if buffer.dtype not in vendor.TYPES:
                buffer.copy_(_combined(self._rows(buffer), op))
            else:
                sums = op == "mean" and not _is_averaged(buffer)
                vendor.reduce_in_place(buffer, NATIVE["sum" if sums else op])

        return reduce_together(tensors, all_reduce, self._device)

    def _bits(self, leaves: Sequence[Any], tensors: Sequence[torch.Tensor], op: str) -> list[Any]:
        for tensor in tensors:
            if tensor.is_floating_point() or tensor.is_complex():
                raise ConfigurationError(
                    f"reduce cannot do {op!r} of {tensor.dtype}, which is no integer; take 'sum', 'min' or 'max'"
                )
        found = []
        for leaf, rows in zip(leaves, self._gather(tensors), strict=True):
            total = rows[0]
            for row in rows[1:]:
                total = BITWISE[op](total, row)
            found.append(total if isinstance(leaf, torch.Tensor) else total.item())
        return found

    def _rows(self, buffer: torch.Tensor) -> torch.Tensor:
        return from_bytes(self._all(to_bytes([buffer], self._device)), [buffer])[0]

    def _gather(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self._require_connection()
        payload = to_bytes(tensors, self._device) if tensors else torch.empty(0)
        if not payload.numel():
            return [each.new_empty(self._world_size, *each.shape) for each in tensors]
        return from_bytes(self._all(payload), tensors)

    def _all(self, payload: torch.Tensor) -> torch.Tensor:
        return vendor.gather(payload, self._world_size)

    def _own_slices(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        totals = self._totals(gradients, "sum")
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


def _is_averaged(buffer: torch.Tensor) -> bool:
    """Whether Bagua's average is one; that of integers would lose its fraction."""
    return buffer.dtype in vendor.TYPES and buffer.is_floating_point()


def _left(op: str, total: torch.Tensor) -> ReduceOp:
    """What of an operation is left to do with what was combined."""
    return cast("ReduceOp", "sum" if op == "mean" and _is_averaged(total) else op)


def _combined(rows: torch.Tensor, op: str) -> torch.Tensor:
    """Rows (world_size, n) combined to (n,); a mean is left as the sum."""
    combine: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "mean": lambda rows: rows.sum(0),
        "sum": lambda rows: rows.sum(0),
        "min": lambda rows: rows.amin(0),
        "max": lambda rows: rows.amax(0),
        "product": lambda rows: rows.prod(0),
    }
    return combine[op](rows)
