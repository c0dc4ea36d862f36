"""Ranks that train together have as many batches each; one that has fewer would leave the others waiting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from torchrelay.collectives.collectives import Collectives
from torchrelay.errors import ConfigurationError

MORE, LAST, NONE = 0, 1, 2
"""What a rank says of a batch: others follow, it is the last, there is none."""


def check_numbers(collectives: Collectives, number: int | None) -> None:
    """Refuse training data of which ranks have different numbers of batches. Collective.

    Raises:
        ConfigurationError: on every rank; names each one's number.
    """
    if collectives.world_size == 1:
        return
    numbers = collectives.gather_objects(number)
    if len(set(numbers)) > 1:
        each = ", ".join(
            f"{'an unknown number' if n is None else n} on rank {rank}"
            for rank, n in enumerate(numbers)
        )
        raise ConfigurationError(
            f"ranks have different numbers of training batches: {each}; the updates need all of them, so give each "
            f"rank the same number{_hint(numbers)}"
        )


def in_step(
    batches: Iterator[tuple[Any, bool]], collectives: Collectives, device: torch.device
) -> Iterator[tuple[Any, bool]]:
    """The batches of data without a length, as long as all ranks have some. Collective at each batch.

    Raises:
        ConfigurationError: on every rank; names those whose data ended before.
    """
    done = 0
    while True:
        item = next(batches, None)
        mine = NONE if item is None else (LAST if item[1] else MORE)
        ranks = collectives.all_gather(torch.tensor(mine, device=device)).tolist()
        if len(set(ranks)) > 1:
            raise _ended_early(ranks, done)
        if item is None:
            return
        yield item
        done += 1


def _ended_early(ranks: list[int], done: int) -> ConfigurationError:
    first = max(ranks)
    number = done + (first == LAST)
    ended = [str(rank) for rank, said in enumerate(ranks) if said == first]
    who = f"rank {ended[0]}" if len(ended) == 1 else f"ranks {', '.join(ended)}"
    return ConfigurationError(
        f"the training data of {who} ended after {number} batches, and other ranks have more; an update needs all "
        f"ranks, so give each the same number, or limit_train_batches={number}"
    )


def _hint(numbers: list[int | None]) -> str:
    known = [number for number in numbers if number is not None]
    return f", or limit_train_batches={min(known)}" if len(known) == len(numbers) else ""
