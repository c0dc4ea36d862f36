"""What cannot be done, and what to do instead, known before any process starts."""

from __future__ import annotations

from collections.abc import Iterator

from torchrelay.environments import ClusterEnvironment, LocalEnvironment, MPIEnvironment
from torchrelay_horovod import vendor
from torchrelay_horovod.environment import HorovodEnvironment, command
from torchrelay_horovod.plugin import BUILD


def processes(
    environment: ClusterEnvironment, devices: int, num_nodes: int, start_method: str
) -> Iterator[str]:
    """Why the processes of a run cannot be, or would each train alone.

    Args:
        environment: who starts them.
        devices: on each machine.
        num_nodes: machines.
        start_method: how they are started where nobody else does.
    """
    wanted = devices * num_nodes
    if isinstance(environment, HorovodEnvironment):
        if start_method != "auto":
            yield f"start_method={start_method!r}, but horovodrun has started the processes; leave it out"
    elif isinstance(environment, MPIEnvironment):
        if not vendor.mpi_built():
            yield (
                "MPI started the processes, and this Horovod is built without it, so that each of them would take "
                f"itself for the only one; start them with: {command(wanted)}"
            )
    elif not isinstance(environment, LocalEnvironment):
        yield (
            f"{environment.name} started the processes, of which Horovod does not know, so that each of them would "
            f"take itself for the only one; start them with: {command(wanted)}"
        )
    elif num_nodes > 1:
        hosts = ",".join(f"HOST{i + 1}:{devices}" for i in range(num_nodes))
        yield (
            f"num_nodes={num_nodes} needs processes on {num_nodes} machines, and torchrelay starts them on this one "
            f"only; give this command on one of them: {command(wanted, hosts)}"
        )
    elif not vendor.gloo_built():
        yield (
            "this Horovod is built without gloo, by which the processes that torchrelay starts meet; start them with "
            f"mpirun -np {wanted}, or build Horovod again: {BUILD}"
        )


def adasum() -> str:
    """Why gradients cannot be combined by Adasum."""
    if vendor.mpi_built():
        return (
            'op="adasum": it combines updates rather than gradients, which this strategy does not do; take '
            'op="average", or hvd.DistributedOptimizer(op=hvd.Adasum) without a Trainer'
        )
    return 'op="adasum": Horovod has Adasum only where it is built with MPI, and this one is not; take op="average"'
