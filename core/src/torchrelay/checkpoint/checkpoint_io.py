"""CheckpointIO: where and how a checkpoint is written and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

Path = str | PathLike[str]


class CheckpointIO(ABC):
    """Writes, reads and removes checkpoints; called on the rank, or ranks, that the strategy decides."""

    @abstractmethod
    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write `checkpoint` to `path`, wholly or not at all.

        Raises:
            CheckpointError: the place cannot be written to; what was there before is still there.
        """

    @abstractmethod
    def load_checkpoint(
        self, path: Path, *, map_location: Any = "cpu", weights_only: bool = True
    ) -> dict[str, Any]:
        """Read the checkpoint at `path`.

        Args:
            path: what `save_checkpoint` was given.
            map_location: device to put the tensors on, as in `torch.load`.
            weights_only: refuse anything but tensors and plain data; False executes what the file's pickle
                says, so only for files you trust.

        Raises:
            CheckpointError: the file is missing, torn, or carries pickled code.
        """

    @abstractmethod
    def remove_checkpoint(self, path: Path) -> None:
        """Remove the checkpoint at `path` if it is there."""

    def when_written(self, action: Callable[[], None]) -> None:
        """Do something as soon as every checkpoint that was saved is whole; at once, where saving waits for that.

        For what makes an older checkpoint unreachable, such as a link that is to name the newest.
        """
        action()

    def wait(self) -> None:
        """Return when nothing is being written any more."""

    def teardown(self) -> None:
        """Wait for whatever is still being written, and let go of what was kept for the next."""
        self.wait()
