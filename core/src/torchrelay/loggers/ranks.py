"""share: one run of each logger, whatever the number of ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

Versions = list[Any]
"""For each logger of a Trainer: the version it has chosen, or None."""


def share(loggers: Sequence[Any], rank: int, broadcast: Callable[[Any], Any]) -> None:
    """Let rank 0's loggers record, and those of the other ranks follow. Collective.

    Rank 0 takes the folders of its loggers, so that `log_dir` is the same on all ranks; a run of one process needs
    no `share` and makes no folder before something is logged.

    Args:
        loggers: a Trainer's, the same on all ranks.
        rank: this process's global rank.
        broadcast: gives rank 0's value on every rank.
    """
    tell_rank(rank)
    if rank == 0:
        broadcast([each.version if _has_folder(each) else None for each in loggers])
        return
    taken: Versions = broadcast(None)
    for logger, version in zip(loggers, taken, strict=True):
        if _has_folder(logger):
            logger.follow(version)


def versions(loggers: Sequence[Any]) -> Versions:
    """The versions that loggers have chosen so far; chooses none. To bring home from launched processes."""
    return [each.chosen_version if _has_folder(each) else None for each in loggers]


def adopt(loggers: Sequence[Any], chosen: Versions) -> None:
    """Go on in the runs that a launched process's loggers chose."""
    for logger, version in zip(loggers, chosen, strict=True):
        if version is not None:
            logger.version = version


def tell_rank(rank: int) -> None:
    """Tell Lightning's own loggers, if they are imported, which rank this is.

    They guess it from the environment when they are imported, which is before a fork.
    """
    module = sys.modules.get("lightning_utilities.core.rank_zero")
    if module is not None:
        module.rank_zero_only.rank = rank


def _has_folder(logger: Any) -> bool:
    return hasattr(logger, "follow")
