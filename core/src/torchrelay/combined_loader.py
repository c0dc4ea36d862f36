"""CombinedLoader: several data loaders as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Literal, get_args

import torch

from torchrelay.arguments import answering
from torchrelay.errors import ConfigurationError
from torchrelay.tree import flatten, map_leaves

Mode = Literal["min_size", "max_size_cycle", "max_size", "sequential"]


class CombinedLoader:
    """Reads several loaders, together or one after the other.

    Iterating gives `(batch, batch_idx, dataloader_idx)`. Where loaders are read together, `batch` has the containers
    of `iterables` with a batch of each loader in its place, and `dataloader_idx` is 0.

    Args:
        iterables: loaders in lists, tuples and dicts, nested as you like.
        mode: "min_size" ends with the shortest, "max_size" with the longest (None stands for batches that are
            missing), "max_size_cycle" too, reading shorter ones anew; "sequential" reads one after the other.

    Raises:
        ConfigurationError: there is no loader, or no such mode.
    """

    @answering
    def __init__(self, iterables: Any, mode: Mode = "min_size") -> None:
        if mode not in get_args(Mode):
            raise ConfigurationError(
                f"CombinedLoader(mode={mode!r}): must be one of {', '.join(map(repr, get_args(Mode)))}"
            )
        self.iterables = iterables
        self.mode = mode
        self.flattened, self._rebuild = flatten(iterables)
        for loader in self.flattened:
            if not is_loader(loader):
                raise ConfigurationError(
                    f"CombinedLoader got a {type(loader).__name__}, which is no data loader; a list of batches is "
                    "one when it is wrapped, as DataLoader(batches, batch_size=None)"
                )
        if not self.flattened:
            raise ConfigurationError("CombinedLoader got no data loader; give at least one")

    def __len__(self) -> int:
        lengths: list[int] = [len(loader) for loader in self.flattened]
        combine: dict[str, Callable[[list[int]], int]] = {"min_size": min, "sequential": sum}
        return combine.get(self.mode, max)(lengths)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        if self.mode == "sequential":
            for number, loader in enumerate(self.flattened):
                for i, batch in enumerate(loader):
                    yield batch, i, number
        else:
            for i, batch in enumerate(self.batches()):
                yield batch, i, 0

    def batches(
        self, open_loader: Callable[[Any], Iterator[Any]] = iter, ended: Iterable[int] = ()
    ) -> Iterator[Any]:
        """The batches without their numbers.

        Args:
            open_loader: makes a loader's iterator.
            ended: numbers of the loaders that have ended already, in that order, where these are read on.
        """
        if self.mode == "sequential":
            return chain.from_iterable(map(open_loader, self.flattened))
        return READ[self.mode](self.flattened, self._rebuild, open_loader, ended)

    def map(self, function: Callable[[Any], Any]) -> CombinedLoader:
        """The same of other loaders: those that a function makes of these."""
        return CombinedLoader(map_leaves(self.iterables, function), self.mode)


def is_loader(value: Any) -> bool:
    """Whether something gives batches, rather than being one."""
    return isinstance(value, Iterable) and not isinstance(value, (torch.Tensor, str, bytes))


class Reading(Iterator[Any]):
    """Loaders that are read side by side.

    Args:
        loaders: the loaders.
        rebuild: puts a batch of each into the user's containers.
        open_loader: makes a loader's iterator.
        ended: numbers of the loaders that have ended, in that order.
    """

    def __init__(
        self,
        loaders: list[Any],
        rebuild: Callable[[list[Any]], Any],
        open_loader: Callable[[Any], Iterator[Any]],
        ended: Iterable[int],
    ) -> None:
        self.loaders = loaders
        self.ended = list(ended)
        self.open_loader = open_loader
        self.rests = [open_loader(loader) for loader in loaders]
        self._rebuild = rebuild

    def __next__(self) -> Any:
        return self._rebuild([self.read(i) for i in range(len(self.loaders))])

    @abstractmethod
    def read(self, i: int) -> Any:
        """A batch of the `i`-th loader; StopIteration if all is read."""

    def note_end(self, i: int) -> None:
        """Note that a loader has ended; StopIteration if all have."""
        self.ended.append(i)
        if len(set(self.ended)) == len(self.loaders):
            raise StopIteration


class _UntilShortest(Reading):
    def read(self, i: int) -> Any:
        return next(self.rests[i])


class _UntilLongest(Reading):
    def read(self, i: int) -> Any:
        if i in self.ended:
            return None
        try:
            return next(self.rests[i])
        except StopIteration:
            self.note_end(i)
            return None


class _Cycling(Reading):
    def __init__(self, *args: Any) -> None:
        # What is shuffled anew on the way must be the same in a resumed epoch, whatever else drew random numbers.
        self._seed = int(torch.empty((), dtype=torch.int64).random_())
        super().__init__(*args)

    def read(self, i: int) -> Any:
        try:
            return next(self.rests[i])
        except StopIteration:
            self.note_end(i)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed + len(self.ended))
            self.rests[i] = self.open_loader(self.loaders[i])
            return _first(self.rests[i], self.loaders[i])


def _first(rest: Iterator[Any], loader: Any) -> Any:
    for batch in rest:
        return batch
    raise ConfigurationError(
        f"a {type(loader).__name__} among the data loaders gave no batch when it was read anew, as "
        "mode='max_size_cycle' needs; give one that is not empty and can be read again, or take mode='min_size'"
    )


READ: dict[str, type[Reading]] = {
    "min_size": _UntilShortest,
    "max_size": _UntilLongest,
    "max_size_cycle": _Cycling,
}
