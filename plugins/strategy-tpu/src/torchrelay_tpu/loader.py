"""DeviceLoader: batches on an XLA device, with what is pending run once before the first and once after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Move = Callable[[Any], Any]


class DeviceLoader:
    """Moves the batches of a loader, and runs what is pending once before the first and once after each.

    `MpDeviceLoader` of torch-xla reads ahead in threads: an exception of the data set ends the loop as if it were
    complete, a `break` leaves the threads, and data that is drawn at random is drawn at another time in each run. Here
    the loop's own thread reads, and a DataLoader's workers read ahead.

    Args:
        loader: gives batches of tensors on the CPU.
        move: moves a batch.
        sync: runs what is pending.
    """

    def __init__(self, loader: Iterable[Any], move: Move, sync: Callable[[], None]) -> None:
        self.loader: Any = loader
        self._move = move
        self._sync = sync

    @property
    def dataset(self) -> Any:
        """The data set of the loader.

        Raises:
            AttributeError: it has none.
        """
        # What limits a loader keeps it as `loader`.
        return getattr(self.loader, "loader", self.loader).dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # Opened at once, as a DataLoader draws its seed then.
        return self._moved(iter(self.loader))

    def _moved(self, batches: Iterator[Any]) -> Iterator[Any]:
        # A step runs while the next batch is read.
        self._sync()
        for batch in batches:
            yield self._move(batch)
            self._sync()
