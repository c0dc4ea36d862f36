"""Which samples of the data set a batch is made of."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset


class BatchIndices:
    """A sampler, or batch sampler, that remembers what it has given until somebody takes it.

    A loader with workers draws ahead of its batches, and gives these in the order in which it has drawn.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        self.source: Any = source
        self._drawn: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        self._drawn.clear()
        for drawn in self.source:
            self._drawn.append(drawn)
            yield drawn

    def set_epoch(self, epoch: int) -> None:
        """Draw another order from the next iteration on, where the source can."""
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)

    def take(self) -> list[int]:
        """The samples of the next batch."""
        drawn = self._drawn.popleft()
        return list(drawn) if isinstance(drawn, (list, tuple)) else [drawn]


def recorded(loader: Any) -> tuple[Any, BatchIndices | None]:
    """A copy of a loader that remembers which samples its batches are made of; the loader and None where it cannot."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader, None
    copied = copy.copy(loader)
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    indices = BatchIndices(getattr(loader, name))
    # As in sharding: DataLoader refuses a plain assignment, which a fresh copy has no reason to.
    copied.__dict__.update({name: indices, "_iterator": None})
    return copied, indices
