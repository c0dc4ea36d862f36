"""One seed for every generator that a run draws from."""

from __future__ import annotations

import os
import random
import sys
from functools import partial
from typing import Any

import torch

from torchrelay.arguments import answering
from torchrelay.errors import ConfigurationError
from torchrelay.utilities.rank_zero import rank_zero_info

SEED_VARIABLE = "TORCHRELAY_SEED"
WORKERS_VARIABLE = "TORCHRELAY_SEED_WORKERS"


@answering
def seed_everything(seed: int | None = None, workers: bool = False, verbose: bool = True) -> int:
    """Seed Python's, NumPy's (if it is loaded) and torch's generators, on all devices.

    The seed is also left in the environment variable TORCHRELAY_SEED, for launched processes and for the order in
    which ranks share shuffled data.

    Args:
        seed: 0 to 2**32 - 1; the one that was set last, or 0, when None.
        workers: give the loaders' worker processes, which NumPy and Python seed alike on all ranks, seeds of their
            own, as `seed_worker` does; a loader that has a `worker_init_fn` keeps it.
        verbose: log the seed on global rank 0, at the level INFO.

    Returns:
        The seed.

    Raises:
        ConfigurationError: it is out of range.
    """
    if seed is None:
        seed = current_seed()
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigurationError(
            f"seed_everything({seed!r}): must be a whole number from 0 to 2**32 - 1"
        )
    if verbose:
        rank_zero_info("seed set to %d", seed)
    os.environ[SEED_VARIABLE] = str(seed)
    os.environ[WORKERS_VARIABLE] = str(int(workers))
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    torch.manual_seed(seed)
    return seed


def current_seed() -> int:
    """The seed that was set last, here or in the process that launched this one; 0 if none was."""
    return int(os.environ.get(SEED_VARIABLE, "0"))


def seeds_workers() -> bool:
    """Whether loaders' worker processes are to have seeds of their own."""
    return os.environ.get(WORKERS_VARIABLE) == "1"


def seed_worker(worker_id: int, rank: int = 0) -> None:
    """Seed Python's, NumPy's and torch's generators in a loader's worker process, one way for each rank and worker.

    A `worker_init_fn`, with the rank bound to it. Torch has seeded the process by the loader's draw and the worker.

    Args:
        worker_id: of the loader's workers.
        rank: global rank of the process that reads from the worker.
    """
    drawn = torch.initial_seed() - worker_id
    mixed = random.Random(f"{drawn} {worker_id} {rank}")
    torch.manual_seed(mixed.getrandbits(63))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(mixed.getrandbits(32))
    random.seed(mixed.getrandbits(64))


def seed_workers_of(loader: Any, rank: int) -> None:
    """Let a data loader's worker processes seed themselves, if that was asked for and it does not do so already."""
    if seeds_workers() and getattr(loader, "worker_init_fn", loader) is None:
        loader.worker_init_fn = partial(seed_worker, rank=rank)
