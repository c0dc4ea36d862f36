"""AsyncCheckpointIO: training goes on while a checkpoint is written."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from torchrelay.checkpoint import files
from torchrelay.checkpoint.background import Background
from torchrelay.checkpoint.checkpoint_io import CheckpointIO, Path
from torchrelay.checkpoint.staging import Staging
from torchrelay.checkpoint.torch_io import TorchCheckpointIO, cannot_be_saved
from torchrelay.errors import CheckpointError


class AsyncCheckpointIO(CheckpointIO):
    """Copies a checkpoint to the CPU's memory and writes it in the background, one at a time.

    Training stalls for the copy alone, unless the checkpoint before is still being written. The memory for a copy
    (as large as the tensors of a checkpoint) is kept for the next until `teardown`. An error in the background is
    raised by the next call of any method, by `teardown`, or shown when the interpreter exits, which waits too.

    Args:
        inner: what writes and reads; `TorchCheckpointIO` when None.
    """

    def __init__(self, inner: CheckpointIO | None = None) -> None:
        self.inner = inner or TorchCheckpointIO()
        self._background = Background()
        self._staging = Staging()
        self._writing: Path = ""

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has nothing under way.
        return type(self), (self.inner,)

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Copy `checkpoint` and return; the copy is written to `path` in the background.

        Raises:
            CheckpointError: it holds what cannot be saved, or the checkpoint before could not be written; then
                this one is not begun.
        """
        self.wait()
        try:
            copied = self._staging.copy(checkpoint)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise cannot_be_saved(path, error) from error
        # The working directory may be another one by the time the file is opened.
        self._writing = files.absolute(path)
        self._background.start(self.inner.save_checkpoint, copied, self._writing)

    def load_checkpoint(
        self, path: Path, *, map_location: Any = "cpu", weights_only: bool = True
    ) -> dict[str, Any]:
        """Read the checkpoint at `path` once nothing is being written any more.

        Raises:
            CheckpointError: as the inner IO has it, or an earlier checkpoint could not be written.
        """
        self.wait()
        return self.inner.load_checkpoint(
            path, map_location=map_location, weights_only=weights_only
        )

    def remove_checkpoint(self, path: Path) -> None:
        """Remove the checkpoint at `path`; while another is being written, once that one is whole.

        So the previous checkpoint is there until the next one is, and stays if that one fails.

        Raises:
            CheckpointError: as the inner IO has it, or an earlier checkpoint could not be written.
        """
        place = files.absolute(path)
        if place == self._writing:
            self.wait()
        self.when_written(lambda: self.inner.remove_checkpoint(place))

    def when_written(self, action: Callable[[], None]) -> None:
        """Do something as soon as every checkpoint that was saved is whole; never, if one of them fails.

        Raises:
            CheckpointError: an earlier checkpoint could not be written.
        """
        if self._background.busy:
            self._background.start(action)
        else:
            self.wait()
            action()

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            CheckpointError: a checkpoint could not be written, or removed.
        """
        try:
            self._background.finish()
        except Exception as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"saving checkpoints in the background failed: {cause}"
            ) from error

    def teardown(self) -> None:
        """Wait for whatever is still being written, and give the memory of the copies back.

        Raises:
            CheckpointError: a checkpoint could not be written, or removed.
        """
        try:
            self.wait()
        finally:
            self._staging.release()
            self.inner.teardown()
