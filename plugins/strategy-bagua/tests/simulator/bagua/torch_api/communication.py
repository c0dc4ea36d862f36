"""The connection and its collectives: one connection a process, which nothing ends; tensors on GPUs alone."""

from __future__ import annotations

from enum import IntEnum

import torch
import torch.distributed as dist
from bagua_simulated import service, wire
from bagua_simulated.machine import machine

from bagua.torch_api import env

_default_pg = None


class ReduceOp(IntEnum):
    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3
    BOR = 7
    BAND = 8
    BXOR = 9
    AVG = 10


class BaguaProcessGroup:
    def __init__(self, ranks, stream, group_name):
        self.ranks, self.stream, self.group_name = ranks, stream, group_name
        self.wires = wire.Wires(ranks)


def is_initialized():
    return _default_pg is not None


def init_process_group(store=None, rank=-1, world_size=-1, local_world_size=-1):
    global _default_pg  # noqa: PLW0603 - it is the vendor's
    if is_initialized():
        raise RuntimeError("simulated: the default process group is there already")
    if machine.device is None:
        # What comes of it in Bagua: the process ends in its native code.
        raise RuntimeError("simulated fatal error: choose the device before init_process_group")
    if store is None:
        store = next(dist.rendezvous("env://"))[0]
    else:
        wire.name_ranks(rank, world_size, local_world_size)
    machine.service, machine.store = service.met(store), store
    if not dist.is_initialized():  # which nothing here uses; Bagua makes it all the same
        dist.init_process_group(
            "gloo", store=store, rank=env.get_rank(), world_size=env.get_world_size()
        )
    _default_pg = new_group()


def new_group(ranks=None, stream=None):
    machine.groups += 1
    ranks = list(range(env.get_world_size())) if ranks is None else sorted(ranks)
    return BaguaProcessGroup(ranks, stream, str(machine.groups))


def _everyone(comm):
    assert _default_pg is not None, "simulated: the default process group is not initialized"
    return _default_pg.wires.everyone if comm is None else comm


def allreduce_inplace(tensor, op=ReduceOp.SUM, comm=None):
    machine.check(tensor)
    _everyone(comm).reduce(tensor, ReduceOp(op).name)


def allgather(send_tensor, recv_tensor, comm=None):
    machine.check(send_tensor)
    machine.check(recv_tensor)
    wires = _everyone(comm)
    assert recv_tensor.numel() == wires.size * send_tensor.numel()
    wires.gather(send_tensor, recv_tensor)


def broadcast(tensor, src=0, comm=None):
    machine.check(tensor)
    _everyone(comm).broadcast(tensor, src)


def broadcast_object(obj, src=0, comm=None):
    return _everyone(comm).broadcast_object(obj, src)


def barrier(comm=None):
    allreduce_inplace(torch.ones(1, device=machine.kind), ReduceOp.SUM, comm)
