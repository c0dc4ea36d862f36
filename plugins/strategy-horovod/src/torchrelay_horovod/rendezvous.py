"""How the processes of a run find each other: at a rendezvous of Horovod's, a new one for each run.

Horovod's server is made for one meeting. At a second one it may answer with addresses of the first, for it forgets who
has read what when the first group of ranks is complete; the processes then end by "connection refused".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torchrelay.collectives.store import open_store
from torchrelay.environments import ClusterEnvironment, LocalEnvironment
from torchrelay_horovod import vendor
from torchrelay_horovod.environment import LOOPBACK, HorovodEnvironment

KEY = "horovod-rendezvous"

# How often this process, one of those that horovodrun has started, has met the others.
_meetings = itertools.count()


@contextmanager
def meeting(environment: ClusterEnvironment) -> Iterator[dict[str, str]]:
    """The variables by which this process meets the others; to be left when all of them have met. Collective.

    They hold for one meeting, so nothing of it stays in the environment of the user's process.
    """
    if isinstance(environment, LocalEnvironment) and environment.world_size > 1:
        store: Any = open_store(environment)  # which the launching process hosts
        place = environment.global_rank, environment.world_size
        with _hosted(
            environment,
            LOOPBACK,
            lambda text: store.set(KEY, text),
            lambda: store.get(KEY).decode(),
        ) as (address, port):
            yield vendor.variables_of(*place, address, port)
    elif isinstance(environment, HorovodEnvironment) and environment.meets_once:
        number = next(_meetings)
        if number == 0:
            yield {}
            return
        server = environment.rendezvous
        key = f"{KEY}/{number}"
        with _hosted(
            environment,
            vendor.address_of(environment.environ.get("HOROVOD_GLOO_IFACE", "")),
            lambda text: vendor.post(server, key, text),
            lambda: vendor.read(server, key),
        ) as (address, port):
            yield vendor.rendezvous_at(address, port)
    else:
        yield {}


@contextmanager
def _hosted(
    environment: ClusterEnvironment,
    address: str,
    tell: Callable[[str], object],
    ask: Callable[[], str],
) -> Iterator[tuple[str, int]]:
    """The address and port of a rendezvous that rank 0 hosts meanwhile, and tells the others of."""
    server = vendor.Rendezvous() if environment.global_rank == 0 else None
    try:
        if server is not None:
            tell(f"{address}:{server.port}")
        there, _, port = ask().rpartition(":")
        yield there, int(port)
    finally:
        if server is not None:
            server.close()
