"""Which samples each rank reads: samplers, shared out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from torchrelay.errors import ConfigurationError

_STATEFUL = "torchdata.stateful_dataloader.sampler"


class ShardedSampler(Sampler[Any]):
    """Every `num_replicas`-th item of a sampler or batch sampler, beginning with the `rank`-th.

    Ranks draw the same order, because each epoch is drawn from a generator seeded alike on all of them.

    Args:
        source: what the user's loader drew from.
        num_replicas: number of ranks.
        rank: this rank.
        pad: repeat items from the beginning until every rank has the same number (training); without, nothing is
            seen twice and ranks may differ by one (evaluation).
        seed: equal on all ranks.
    """

    def __init__(
        self, source: Iterable[Any], *, num_replicas: int, rank: int, pad: bool, seed: int
    ) -> None:
        self.source = source
        self.num_replicas = num_replicas
        self.rank = rank
        self.pad = pad
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw another order from the next iteration on."""
        self.epoch = epoch
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)

    def __len__(self) -> int:
        if not isinstance(self.source, Sized):
            raise TypeError(f"{type(self.source).__name__} has no length")
        total = len(self.source)
        share = (
            total + self.num_replicas - 1 if self.pad else total + self.num_replicas - 1 - self.rank
        )
        return share // self.num_replicas

    def __iter__(self) -> Iterator[Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + self.epoch)
            items = list(self.source)
        if self.pad and items:
            short = -len(items) % self.num_replicas
            items += [items[i % len(items)] for i in range(short)]
        return iter(items[self.rank :: self.num_replicas])


def can_be_shared(loader: Any) -> bool:
    """Whether ranks can be given shares of a loader.

    The user's own distributed sampler is respected, and a data set without a length has to share itself, by rank.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    return not _is_distributed(loader)


def shard(
    loader: DataLoader[Any],
    arguments: dict[str, int],
    *,
    training: bool,
    pad: bool,
    seed: int,
    whole_batches: bool = False,
) -> DataLoader[Any]:
    """A copy of a loader in which each rank reads its share.

    Args:
        loader: one that can be shared.
        arguments: number of ranks and this rank, as samplers take them.
        training: whether the order may be drawn anew in each epoch.
        pad: give every rank as much by giving something twice.
        seed: of that order, equal on all ranks.
        whole_batches: share out batches instead of samples.

    Raises:
        ConfigurationError: training has fewer samples than there are ranks.
    """
    if training:
        _refuse_less_than_the_world(loader, arguments["num_replicas"])
    shared = copy.copy(loader)
    if loader.batch_sampler is None:
        sampler: Any = _sharded(loader.sampler, loader, arguments, training, pad, seed)
        _replace(shared, sampler=sampler)
    elif is_torchs(loader.batch_sampler, BatchSampler) and not whole_batches:
        sampler = _sharded(loader.sampler, loader, arguments, training, pad, seed)
        _replace(shared, sampler=sampler, batch_sampler=_batches(loader, sampler))
    else:
        batches_of_rank = ShardedSampler(loader.batch_sampler, **arguments, pad=pad, seed=seed)
        _replace(shared, batch_sampler=batches_of_rank)
    return shared


def in_order(loader: Any) -> Any:
    """A copy of a loader that gives its samples in the order of the data set; other samplers are kept."""
    if not isinstance(loader, DataLoader) or not is_torchs(loader.sampler, RandomSampler):
        return loader
    ordered = copy.copy(loader)
    sampler = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    batches = loader.batch_sampler
    if is_torchs(batches, BatchSampler):
        batches = _batches(loader, sampler)
    _replace(ordered, sampler=sampler, batch_sampler=batches)
    return ordered


def is_torchs(sampler: Any, kind: type) -> bool:
    """Whether a sampler is torch's own of a kind, or what torchdata's StatefulDataLoader has in its place."""
    own = type(sampler)
    return own is kind or (own.__module__, own.__name__) == (_STATEFUL, kind.__name__)


def _batches(loader: DataLoader[Any], sampler: Any) -> Any:
    """Batches as a loader makes them, of another sampler."""
    given: Any = loader.batch_sampler
    return type(given)(sampler, given.batch_size, given.drop_last)


def _refuse_less_than_the_world(loader: DataLoader[Any], ranks: int) -> None:
    source = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    samples = loader.sampler if is_torchs(source, BatchSampler) else source
    number = len(samples) if isinstance(samples, Sized) else ranks
    if 0 < number < ranks:
        raise ConfigurationError(
            f"the training data has {number} {'sample' if number == 1 else 'samples'} for {ranks} processes, so some "
            f"would have none of their own; give at least {ranks}, or take devices={number}"
        )


def _is_distributed(loader: DataLoader[Any]) -> bool:
    inner = getattr(loader.batch_sampler, "sampler", loader.sampler)
    return isinstance(inner, (DistributedSampler, ShardedSampler))


def _sharded(
    sampler: Any,
    loader: DataLoader[Any],
    arguments: dict[str, int],
    training: bool,
    pad: bool,
    seed: int,
) -> Sampler[Any]:
    """torch's own distributed sampler for a whole data set, in order or shuffled; else a share of the user's."""
    dataset: Any = loader.dataset
    random = is_torchs(sampler, RandomSampler)
    whole = random and not sampler.replacement and sampler.num_samples == len(dataset)
    if pad and (whole or is_torchs(sampler, SequentialSampler)):
        ranks: dict[str, Any] = arguments
        return DistributedSampler(dataset, **ranks, shuffle=training and random, seed=seed)
    return ShardedSampler(sampler, **arguments, pad=pad, seed=seed)


def _replace(loader: DataLoader[Any], **parts: Any) -> None:
    # DataLoader refuses these assignments after its construction because an iterator may be under way. On a fresh
    # copy there is none, and a copy keeps what a subclass added, which a second construction would not.
    loader.__dict__.update(parts, _iterator=None)
