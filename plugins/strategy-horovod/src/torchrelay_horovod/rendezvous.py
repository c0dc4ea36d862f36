"""How the processes that torchrelay starts find each other: at Horovod's own rendezvous, which rank 0 hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchrelay.collectives.store import open_store
from torchrelay.environments import ClusterEnvironment
from torchrelay_horovod import vendor
from torchrelay_horovod.environment import LOOPBACK

KEY = "horovod-rendezvous"


@contextmanager
def meeting(environment: ClusterEnvironment) -> Iterator[dict[str, str]]:
    """The variables by which this process meets the others; to be left when all of them have met. Collective.

    Rank 0 tells the port by the run's store, which the launching process hosts: so nothing of Horovod's is in the
    environment of the user's process, and each run of a program has a rendezvous of its own.
    """
    rank, processes = environment.global_rank, environment.world_size
    if processes == 1:
        yield {}
        return
    store = open_store(environment)
    server = vendor.Rendezvous(processes) if rank == 0 else None
    try:
        if server is not None:
            store.set(KEY, str(server.port))
        yield vendor.variables_of(rank, processes, LOOPBACK, int(store.get(KEY)))
    finally:
        if server is not None:
            server.close()
