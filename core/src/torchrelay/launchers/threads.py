"""How many threads each process of a run computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

VARIABLE = "OMP_NUM_THREADS"


def share(num_processes: int) -> int | None:
    """Threads for each of so many processes: its share of the cores that this process may use, at least 1.

    Returns:
        None when OMP_NUM_THREADS is set: the user has decided.
    """
    if VARIABLE in os.environ:
        return None
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // num_processes)


@contextmanager
def limited_to(threads: int | None) -> Iterator[None]:
    """Compute with so many threads inside, and with as many as before afterwards; None changes nothing."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)
