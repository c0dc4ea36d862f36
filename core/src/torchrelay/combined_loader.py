"""CombinedLoader: several data loaders as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import torch

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
            for i, batches in enumerate(READ[self.mode](self.flattened)):
                yield self._rebuild(batches), i, 0

    def batches(self) -> Iterator[Any]:
        """The batches without their numbers."""
        return (batch for batch, _, _ in self)

    def map(self, function: Callable[[Any], Any]) -> CombinedLoader:
        """The same of other loaders: those that a function makes of these."""
        return CombinedLoader(map_leaves(self.iterables, function), self.mode)


def is_loader(value: Any) -> bool:
    """Whether something gives batches, rather than being one."""
    return isinstance(value, Iterable) and not isinstance(value, (torch.Tensor, str, bytes))


def _until_shortest(loaders: list[Any]) -> Iterator[list[Any]]:
    return map(list, zip(*loaders, strict=False))


def _until_longest(loaders: list[Any]) -> Iterator[list[Any]]:
    rests = [iter(loader) for loader in loaders]
    ended: set[int] = set()
    while True:
        batches = []
        for i, rest in enumerate(rests):
            try:
                batches.append(None if i in ended else next(rest))
            except StopIteration:
                ended.add(i)
                batches.append(None)
        if len(ended) == len(rests):
            return
        yield batches


def _cycling(loaders: list[Any]) -> Iterator[list[Any]]:
    rests = [iter(loader) for loader in loaders]
    ended: set[int] = set()
    while True:
        batches = []
        for i, loader in enumerate(loaders):
            try:
                batches.append(next(rests[i]))
            except StopIteration:
                ended.add(i)
                if len(ended) == len(loaders):
                    return
                rests[i] = iter(loader)
                batches.append(_first(rests[i], loader))
        yield batches


def _first(rest: Iterator[Any], loader: Any) -> Any:
    for batch in rest:
        return batch
    raise ConfigurationError(
        f"a {type(loader).__name__} among the data loaders gave no batch when it was read anew, as "
        "mode='max_size_cycle' needs; give one that is not empty and can be read again, or take mode='min_size'"
    )


READ: dict[str, Callable[[list[Any]], Iterator[list[Any]]]] = {
    "min_size": _until_shortest,
    "max_size": _until_longest,
    "max_size_cycle": _cycling,
}
