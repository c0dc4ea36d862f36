"""The batches of a loader: so many, so often, from where a run went on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from torchrelay.checkpoint import rng
from torchrelay.errors import ConfigurationError
from torchrelay.trainer.batch_indices import BatchIndices
from torchrelay.trainer.bounds import Limit
from torchrelay.trainer.together import has_state
from torchrelay.trainer.workers import opened


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the samplers of a loader, or of those that it combines, which epoch begins."""
    for each in getattr(loader, "flattened", ()):
        set_epoch(each, epoch)
    batches = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    for sampler in {id(each): each for each in samplers}.values():
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
        return islice(opened(self.loader), self.at_most)


class Portion:
    """So many batches of a loader, as the backend reads them.

    Args:
        loader: a loader, or any iterable.
        limit: so many batches, or a fraction of them; None for all.
        name: the argument that the limit came from, for messages.
        process: what the backend makes of the loader, which is limited already; None if it takes it as it is.

    Attributes:
        source: the loader as it is without limit and backend.
        loader: what is read.
        number: batches that it gives; None when it does not know.
        given: batches of the user's that these are made of; None when that is not known.
        total: batches of all ranks, where each rank has whole ones in turn; None where that is not so.
        indices: which samples each batch is made of, where that is recorded.
        is_stateful: whether the loader can say its place, and find it again.

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
        self.source: Any = loader
        at_most = _at_most(length(loader), limit, name)
        limited = loader if at_most is None else Limited(loader, at_most)
        self.loader = limited if process is None else process(limited)
        self.number = length(self.loader)
        self.given = length(limited)
        self.total: int | None = None
        self.indices: BatchIndices | None = None
        # A backend's own loader may have read ahead, so that the state of the user's is not that of the loop.
        self.is_stateful = self.loader is limited and has_state(loader)
        self._place: dict[str, Any] | None = None
        self._before_ahead: dict[str, Any] | None = None
        self._was_read = False

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader's samplers which epoch begins; a backend's own loader may have lost them."""
        set_epoch(self.source, epoch)

    def state(self) -> dict[str, Any] | None:
        """What the loader says of its place; None where it says nothing, or was not read yet.

        Where a batch was read ahead, its place before that, and the random state that this began from.
        """
        if not (self.is_stateful and self._was_read):
            return None
        return self._before_ahead or {"loader": self.source.state_dict()}

    def resume_from(self, place: dict[str, Any] | None, *, inside: bool) -> None:
        """Let the loader find the place that it has said.

        Args:
            place: of `state`; None if there is none, and the loader is read from its beginning.
            inside: whether that is inside an epoch, which `batches` then goes on with, or after one.
        """
        if place is None or not self.is_stateful:
            return
        if inside:
            self._place = self._before_ahead = place
        else:
            self.source.load_state_dict(place["loader"])
            # takes the place up: the epoch that is over, after which a new one begins
            opened(self.source)
            self._was_read = True

    def batches(
        self, skip: int = 0, after_skip: Callable[[], None] | None = None
    ) -> Iterator[tuple[Any, bool]]:
        """The batches of an epoch, each with whether it is the last.

        With a known number nothing is read ahead; otherwise one batch is.

        Args:
            skip: so many are drawn and dropped at once, unless the loader finds its place itself.
            after_skip: called between that and the drawing of the next.

        Raises:
            ConfigurationError: the loader ends before its own length.
        """
        place, self._place = self._place, None
        self._was_read = True
        if place is None:
            batches = self._read(0, opened(self.loader))
            for _ in islice(batches, skip):
                pass
        else:
            batches = self._read(skip, self._rest(place, skip))
        if after_skip is not None:
            after_skip()
        return batches

    def _rest(self, place: dict[str, Any], skip: int) -> Iterator[Any]:
        """What the loader gives from a place on; what was read ahead there is read from the same random state."""
        self.source.load_state_dict(place["loader"])
        at_most = getattr(self.loader, "at_most", None)
        rest = islice(opened(self.source), None if at_most is None else at_most - skip)
        if self.number is not None:
            return rest
        if "rng" in place:
            rng.restore(place["rng"])
        return chain(list(islice(rest, 1)), rest)

    def _read(self, taken: int, rest: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
        return self._ahead(rest) if self.number is None else self._counted(taken, rest)

    def _counted(self, taken: int, rest: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
        number = self.number or 0
        for batch in islice(rest, number - taken):
            taken += 1
            yield batch, taken == number
        next(rest, None)  # as a plain loop does; some loaders keep work for their end
        if taken < number:
            raise ConfigurationError(
                f"the data loader ended after {taken} batches, but its length says {number}; correct its "
                "__len__, or limit the number of batches"
            )

    def _ahead(self, rest: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
        ended = object()
        batch = next(rest, ended)
        while batch is not ended:
            if self.is_stateful:
                self._before_ahead = {"loader": self.source.state_dict(), "rng": rng.capture()}
            following = next(rest, ended)
            yield batch, following is ended
            batch = following
        self._before_ahead = None


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
