"""Communicators over gloo, in the place of NCCL: of all ranks, of a machine's, and between machines."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from bagua.torch_api import env

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
        self.group = dist.new_group(ranks)
        mine = env.get_rank()
        self.rank = ranks.index(mine) if mine in ranks else None

    def reduce(self, tensor: torch.Tensor, op: str) -> None:
        """Combine in place; NCCL has no operations on bits, and its average of integers is one."""
        if op not in OPERATIONS:
            raise RuntimeError(f"simulated: NCCL has no operation {op}")
        half = tensor.dtype == torch.float16
        buffer = tensor.float() if half else tensor
        dist.all_reduce(buffer, OPERATIONS[op], group=self.group)
        if op == "AVG":
            buffer.div_(self.size, rounding_mode=None if buffer.is_floating_point() else "trunc")
        if half:
            tensor.copy_(buffer)

    def gather(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        rows = received.view(self.size, -1)
        dist.all_gather(list(rows.unbind(0)), sent.reshape(-1).contiguous(), group=self.group)

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        dist.broadcast(tensor, self.ranks[src], group=self.group)

    def exchanged(self, sent: torch.Tensor) -> list[torch.Tensor]:
        """What every rank sent, in rank order."""
        rows = sent.new_empty(self.size, sent.numel())
        self.gather(sent, rows)
        return list(rows)


class Wires:
    """The communicators of a group. Making them is a collective of all ranks."""

    def __init__(self, ranks: list[int]) -> None:
        self.everyone = Wire(ranks)
        nodes = [0] * env.get_world_size()
        dist.all_gather_object(nodes, env.get_node_rank())
        within = [[r for r in ranks if nodes[r] == node] for node in sorted(set(nodes))]
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
