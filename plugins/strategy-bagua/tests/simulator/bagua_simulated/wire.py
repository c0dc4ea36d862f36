"""Communicators over gloo, in the place of NCCL: of all ranks, of a machine's, and between machines."""

from __future__ import annotations

import os
import pickle
from datetime import timedelta

import torch
import torch.distributed as dist
from bagua.torch_api import env
from torch.distributed import PrefixStore, ProcessGroupGloo
from torch.distributed.distributed_c10d import AllreduceOptions, BroadcastOptions

from bagua_simulated.machine import machine

OPERATIONS = {
    "SUM": dist.ReduceOp.SUM,
    "AVG": dist.ReduceOp.SUM,
    "PRODUCT": dist.ReduceOp.PRODUCT,
    "MIN": dist.ReduceOp.MIN,
    "MAX": dist.ReduceOp.MAX,
}


def name_ranks(rank: int, world_size: int, local_world_size: int) -> None:
    """Write ranks into the environment, as Bagua does where a store is given."""
    assert rank >= 0, rank
    assert world_size > 0, world_size
    assert local_world_size > 0, local_world_size
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(world_size)
    os.environ["LOCAL_RANK"] = str(rank % local_world_size)
    os.environ["LOCAL_WORLD_SIZE"] = str(local_world_size)


class Wire:
    """A communicator; `rank` is this process's place in it, None outside."""

    def __init__(self, ranks: list[int]) -> None:
        self.ranks, self.size = ranks, len(ranks)
        mine = env.get_rank()
        self.rank = ranks.index(mine) if mine in ranks else None
        machine.connect(env.get_local_rank())
        machine.wires += 1
        if self.rank is not None:
            # None of torch.distributed's own, which comes and goes.
            store = PrefixStore(f"bagua_simulated/{machine.wires}", machine.store)
            self.group = ProcessGroupGloo(store, self.rank, self.size, timedelta(seconds=60))

    def reduce(self, tensor: torch.Tensor, op: str) -> None:
        """Combine in place; NCCL has no operations on bits, and its average of integers is one."""
        if op not in OPERATIONS:
            raise RuntimeError(f"simulated: NCCL has no operation {op}")
        half = tensor.dtype == torch.float16
        buffer = tensor.float() if half else tensor
        options = AllreduceOptions()
        options.reduceOp = OPERATIONS[op]
        self.group.allreduce([buffer], options).wait()
        if op == "AVG":
            buffer.div_(self.size, rounding_mode=None if buffer.is_floating_point() else "trunc")
        if half:
            tensor.copy_(buffer)

    def gather(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        rows = received.view(self.size, -1)
        self.group.allgather([list(rows.unbind(0))], [sent.reshape(-1).contiguous()]).wait()

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        options = BroadcastOptions()
        options.rootRank = src
        self.group.broadcast([tensor], options).wait()

    def broadcast_object(self, value: object, src: int) -> object:
        if self.rank == src:
            payload = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        size = torch.tensor([payload.numel() if self.rank == src else 0])
        self.broadcast(size, src)
        received = payload if self.rank == src else torch.empty(int(size), dtype=torch.uint8)
        self.broadcast(received, src)
        return value if self.rank == src else pickle.loads(received.numpy().tobytes())

    def exchanged(self, sent: torch.Tensor) -> list[torch.Tensor]:
        """What every rank sent, in rank order."""
        rows = sent.new_empty(self.size, sent.numel())
        self.gather(sent, rows)
        return list(rows)


class Wires:
    """The communicators of a group. Making them is a collective of all ranks."""

    def __init__(self, ranks: list[int]) -> None:
        self.everyone = Wire(ranks)
        nodes = [int(each) for each in self.everyone.exchanged(torch.tensor([env.get_node_rank()]))]
        placed = list(zip(ranks, nodes, strict=True))
        within = [[rank for rank, at in placed if at == node] for node in sorted(set(nodes))]
        mine = [Wire(each) for each in within]
        self.within = next(each for each in mine if each.rank is not None)
        self.between = Wire([each[0] for each in within])

    def combine(self, flat, hierarchical, average, function, *, after=True):
        """Run `function(wire, flat)` over all ranks, or over the first of each machine, for all of it.

        With `hierarchical`, a machine's ranks are combined before, and take what its first one has after.
        """
        if not hierarchical:
            function(self.everyone, flat)
            return
        self.within.reduce(flat, "AVG" if average else "SUM")
        if self.within.rank == 0:
            function(self.between, flat)
        if after:
            self.within.broadcast(flat, 0)
