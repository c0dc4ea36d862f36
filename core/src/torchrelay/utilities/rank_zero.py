"""What one process does for all: functions that act on global rank 0 alone, before, in and after a run."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from torchrelay.environments.seat import Seat
from torchrelay.utilities.messages import LOGGER, show_messages

P = ParamSpec("P")
T = TypeVar("T")

VARIABLES = (
    *("RANK", "HOROVOD_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK"),
    "PMI_RANK",
)
"""Where torchrun and Kubeflow, Horovod, SLURM, LSF, Open MPI and MPICH tell a process its rank."""


def rank_zero_only(function: Callable[P, T]) -> Callable[P, T | None]:
    """Let a function act on global rank 0 alone; on the others it returns None."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T | None:
        return function(*args, **kwargs) if current_rank() == 0 else None

    return wrapped


@rank_zero_only
def rank_zero_info(message: object, *args: Any, **kwargs: Any) -> None:
    """Log a message of the level INFO on global rank 0, by the logger "torchrelay".

    It is shown on stderr, or by the handlers that the program has set up; `logging.getLogger("torchrelay").setLevel`
    chooses what is shown. Arguments are those of `logging.Logger.info`.
    """
    show_messages()
    # The caller stands above this function and the one that asks for the rank.
    LOGGER.info(message, *args, **{"stacklevel": 3, **kwargs})


@rank_zero_only
def rank_zero_warn(
    message: str | Warning, stacklevel: int = 3, category: type[Warning] = UserWarning
) -> None:
    """Warn on global rank 0; the default `stacklevel` points at the caller."""
    warnings.warn(message, category, stacklevel=stacklevel)


def current_rank() -> int:
    """This process's global rank: in a run as it is, before one as its launcher has told it, else 0."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    seat = Seat.of(os.environ)
    if seat is not None:
        return seat.rank
    return next((int(os.environ[name]) for name in VARIABLES if name in os.environ), 0)
