"""The store through which the processes of a run find each other."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from typing import Any

# torch re-exports these without saying so to type checkers.
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from torchrelay.environments.environment import ClusterEnvironment

_Key = tuple[int, str, int]

# Rank 0's store serves the other processes, so it lives as long as the process does. A forked process must
# not use its parent's connection, hence the process id.
_stores: dict[_Key, Any] = {}
_runs: Counter[_Key] = Counter()


def open_store(environment: ClusterEnvironment, timeout: timedelta | None = None) -> Store:
    """A fresh part of the store at the environment's main address.

    The connection is made once per process and address. Each call answers with a part of its own, under the
    launcher's restart count and this process's count of calls, so that a second run in the same processes
    never meets keys of the first. All ranks must therefore call it equally often.

    Args:
        environment: where the store is, and whether somebody else hosts it or rank 0 does.
        timeout: for the connection, and for waiting on a key; torch's default when None.

    Raises:
        torch.distributed.DistError: the store cannot be reached, or its port cannot be had.
    """
    key = (os.getpid(), environment.main_address, environment.main_port)
    if key not in _stores:
        _stores[key] = _connect(environment, timeout)
    _runs[key] += 1
    prefix = f"torchrelay/{environment.restart_count}/{_runs[key]}"
    return PrefixStore(prefix, _stores[key])


def _connect(environment: ClusterEnvironment, timeout: timedelta | None) -> Any:
    options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
    address, port = environment.main_address, environment.main_port
    if environment.store_is_hosted:
        return TCPStore(address, port, is_master=False, wait_for_workers=False, **options)
    host = f"[{address}]" if ":" in address else address
    # torch's own handler, because it knows when torchrun's agent hosts the store.
    handler = rendezvous(
        f"tcp://{host}:{port}", environment.global_rank, environment.world_size, **options
    )
    return next(handler)[0]
