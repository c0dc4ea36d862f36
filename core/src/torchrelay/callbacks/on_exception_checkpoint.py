"""OnExceptionCheckpoint: a checkpoint of the run as an exception left it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, ClassVar

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Checkpointer
from torchrelay.checkpoint import files
from torchrelay.errors import ConfigurationError
from torchrelay.launchers.interruption import Interrupted

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class OnExceptionCheckpoint(Checkpointer):
    """Saves the run when an exception ends its training; a training that comes to its end removes the file.

    The checkpoint holds the weights as the exception found them, and counts the batches that were complete. Only a
    run of one process is saved: see `may_save_alone`.

    Args:
        dirpath: folder.
        filename: name without suffix.

    Raises:
        ConfigurationError: the name is empty.
    """

    FILE_EXTENSION: ClassVar[str] = ".ckpt"

    @answering
    def __init__(self, dirpath: str | os.PathLike[str], filename: str = "on_exception") -> None:
        if not filename:
            raise ConfigurationError("OnExceptionCheckpoint(filename=''): give the file a name")
        self.dirpath = os.fspath(dirpath)
        self.filename = filename
        self._training = False

    @property
    def ckpt_path(self) -> str:
        """The file."""
        return files.join(self.dirpath, self.filename + self.FILE_EXTENSION)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is something to save from here on."""
        self._training = True

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save the run."""
        training, self._training = self._training, False
        if training and may_save_alone(trainer, exception, type(self).__name__):
            trainer.save_checkpoint(self.ckpt_path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what an earlier attempt has left."""
        self._training = False
        trainer.strategy.remove_checkpoint(self.ckpt_path)


def may_save_alone(trainer: Trainer, exception: BaseException, asker: str) -> bool:
    """Whether a rank that an exception has come to may save the run; if not, a line on stderr says why.

    Saving is collective: after an exception the other ranks may be anywhere, and would be waited for in vain. A run
    that a signal ended is saved already.
    """
    if isinstance(exception, Interrupted) or trainer.options.fast_dev_run:
        return False
    if trainer.world_size > 1:
        sys.stderr.write(
            f"torchrelay: rank {trainer.global_rank}: {asker} saves nothing after {type(exception).__name__}: all "
            f"{trainer.world_size} ranks save together, and the others may be anywhere; keep checkpoints during the "
            "run, as with ModelCheckpoint(every_n_train_steps=...)\n"
        )
    return trainer.world_size == 1
