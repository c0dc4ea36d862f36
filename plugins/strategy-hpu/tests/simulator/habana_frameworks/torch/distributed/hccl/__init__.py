"""Simulated: collectives of one device a process, over gloo."""

from __future__ import annotations

import os

import torch.distributed as dist

from habana_frameworks.torch.distributed.hccl.group import ProcessGroupHCCL

MPI = {
    "OMPI_COMM_WORLD_LOCAL_RANK": "LOCAL_RANK",
    "OMPI_COMM_WORLD_RANK": "RANK",
    "OMPI_COMM_WORLD_SIZE": "WORLD_SIZE",
}
"""What stands for each variable under Open MPI."""


def initialize_distributed_hpu(world_size=None, rank=None, local_rank=None):
    """Take the ranks from the arguments if all are given, else from MPI or the environment; name the module."""
    environ = os.environ
    if all(each is not None for each in (world_size, rank, local_rank)):
        environ.update(WORLD_SIZE=str(world_size), RANK=str(rank), LOCAL_RANK=str(local_rank))
    elif not {"WORLD_SIZE", "RANK", "LOCAL_RANK"} <= set(environ):
        for mpi, name in MPI.items():
            if mpi in environ:
                environ[name] = environ[mpi]
        environ.setdefault("MASTER_ADDR", "localhost")
        environ.setdefault("MASTER_PORT", "12345")
    size, place, local = (
        int(environ.get(n, d)) for n, d in (("WORLD_SIZE", 1), ("RANK", -1), ("LOCAL_RANK", -1))
    )
    if "HLS_MODULE_ID" not in environ and local != -1 and size > 1:
        visible = environ.get("HABANA_VISIBLE_MODULES")
        if visible is None:
            environ["HLS_MODULE_ID"] = str(local)
        else:
            modules = visible.split(",")
            assert local < len(modules), "There is not enough devices available for training."
            environ["HLS_MODULE_ID"] = modules[local]
    if place != -1:
        environ["ID"] = str(place)
    return size, place, local


initialize_distributed_hpu()


def _create(options, more):
    ranks = {"RANK": options.group_rank, "WORLD_SIZE": options.group_size}
    wrong = [n for n, value in ranks.items() if os.environ.get(n) != str(value)]
    if options.group_size > 1 and "HLS_MODULE_ID" not in os.environ:
        wrong.append("HLS_MODULE_ID")
    if wrong:
        raise RuntimeError(
            f"simulated: {', '.join(wrong)} must be in the environment before init_process_group"
        )
    return ProcessGroupHCCL(options.store, options.group_rank, options.group_size, options.timeout)


dist.Backend.register_backend("hccl", _create, devices=["hpu"], extended_api=True)

__all__ = ["initialize_distributed_hpu"]
