"""Which data each rank reads: samplers, limits, and the batches of a loader."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
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

Limit = int | float


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


def shard(
    loader: Any, arguments: dict[str, int] | None, *, training: bool, pad: bool, seed: int
) -> Any:
    """A copy of the loader in which each rank reads its share; the loader itself where there is nothing to share.

    The user's own distributed sampler is respected. A data set without a length is left as it is: it has to
    share itself, by rank.
    """
    if arguments is None or not isinstance(loader, DataLoader):
        return loader
    if isinstance(loader.dataset, IterableDataset) or _is_distributed(loader):
        return loader
    shared = copy.copy(loader)
    if loader.batch_sampler is None:
        sampler: Any = _sharded(loader.sampler, loader, arguments, training, pad, seed)
        _replace(shared, sampler=sampler)
    elif type(loader.batch_sampler) is BatchSampler:
        sampler = _sharded(loader.sampler, loader, arguments, training, pad, seed)
        batches = BatchSampler(
            sampler, loader.batch_sampler.batch_size, loader.batch_sampler.drop_last
        )
        _replace(shared, sampler=sampler, batch_sampler=batches)
    else:
        batches_of_rank = ShardedSampler(loader.batch_sampler, **arguments, pad=pad, seed=seed)
        _replace(shared, batch_sampler=batches_of_rank)
    return shared


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
    random = type(sampler) is RandomSampler
    whole = random and not sampler.replacement and sampler.num_samples == len(dataset)
    if pad and (whole or type(sampler) is SequentialSampler):
        ranks: dict[str, Any] = arguments
        return DistributedSampler(dataset, **ranks, shuffle=training and random, seed=seed)
    return ShardedSampler(sampler, **arguments, pad=pad, seed=seed)


def _replace(loader: DataLoader[Any], **parts: Any) -> None:
    # DataLoader refuses these assignments after its construction because an iterator may be under way. On a fresh
    # copy there is none, and a copy keeps what a subclass added, which a second construction would not.
    loader.__dict__.update(parts, _iterator=None)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the samplers of a loader which epoch begins."""
    batches = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        tell = getattr(sampler, "set_epoch", None)
        if tell is not None:
            tell(epoch)


class Limited:
    """The first batches of a loader.

    Args:
        loader: the loader; like `at_most`, an attribute for a backend that makes a loader of its own from it.
        at_most: so many batches.
    """

    def __init__(self, loader: Iterable[Any], at_most: int) -> None:
        self.loader: Any = loader
        self.at_most = at_most

    def __len__(self) -> int:
        return min(self.at_most, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        return islice(self.loader, self.at_most)


class Portion:
    """So many batches of a loader, as the backend reads them.

    Args:
        loader: a loader, or any iterable.
        limit: so many batches, or a fraction of them; None for all.
        name: the argument that the limit came from, for messages.
        process: what the backend makes of the loader, which is limited already; None if it takes it as it is.

    Attributes:
        loader: what is read.
        number: batches that it gives; None when it does not know.
        given: batches of the user's that these are made of; None when that is not known.

    Raises:
        ConfigurationError: a fraction of a loader without a length.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        limit: Limit | None,
        name: str,
        process: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
    ) -> None:
        self._source = loader
        at_most = _at_most(length(loader), limit, name)
        limited = loader if at_most is None else Limited(loader, at_most)
        self.loader = limited if process is None else process(limited)
        self.number = length(self.loader)
        self.given = length(limited)

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader's samplers which epoch begins; a backend's own loader may have lost them."""
        set_epoch(self._source, epoch)

    def batches(
        self, skip: int = 0, after_skip: Callable[[], None] | None = None
    ) -> Iterator[tuple[Any, bool]]:
        """The batches of an epoch, each with whether it is the last.

        With a known number nothing is read ahead; otherwise one batch is.

        Args:
            skip: so many are drawn and dropped first.
            after_skip: called between that and the drawing of the next.

        Raises:
            ConfigurationError: the loader ends before its own length.
        """
        batches = self._numbered() if self.number is not None else self._unnumbered()
        for _ in islice(batches, skip):
            pass
        if after_skip is not None:
            after_skip()
        yield from batches

    def _unnumbered(self) -> Iterator[tuple[Any, bool]]:
        return _looking_ahead(self.loader)

    def _numbered(self) -> Iterator[tuple[Any, bool]]:
        taken, number, rest = 0, self.number or 0, iter(self.loader)
        for batch in islice(rest, number):
            taken += 1
            yield batch, taken == number
        next(rest, None)  # as a plain loop does; some loaders keep work for their end
        if taken < number:
            raise ConfigurationError(
                f"the data loader ended after {taken} batches, but its length says {number}; correct its "
                "__len__, or limit the number of batches"
            )


def _at_most(total: int | None, limit: Limit | None, name: str) -> int | None:
    """The number of batches to which a limit amounts; None for all."""
    if limit is None or (limit == 1.0 and isinstance(limit, float)):
        return None
    if isinstance(limit, int):
        return None if total is not None and total <= limit else limit
    if total is None:
        raise ConfigurationError(
            f"{name}={limit} asks for a fraction of a data loader that has no length; give a number of batches"
        )
    return _fraction(limit, total, name)


def _fraction(limit: float, total: int, name: str) -> int:
    number = int(total * limit)
    if limit and total and not number:
        raise ConfigurationError(
            f"{name}={limit} of {total} batches is less than one; give a larger fraction, or a number of batches"
        )
    return number


def length(loader: Any) -> int | None:
    """The batches that a loader says it has; None if it does not know."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _looking_ahead(loader: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    rest = iter(loader)
    for batch in rest:
        for following in rest:
            yield batch, False
            batch = following
        yield batch, True


def check_limit(value: Any, name: str) -> None:
    """Refuse a limit that is neither a number of batches nor a fraction of them.

    Raises:
        ConfigurationError: it is not.
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    fraction = isinstance(value, float) and 0.0 <= value <= 1.0
    if value is not None and not whole and not fraction:
        raise ConfigurationError(
            f"{name}={value!r} must be a number of batches from 0, or a fraction from 0.0 to 1.0"
        )
