"""default_logger: the logger of a Trainer that was given none."""

from __future__ import annotations

import importlib.util
import os

from torchrelay.loggers.csv_logger import CSVLogger
from torchrelay.loggers.folder_logger import FolderLogger
from torchrelay.loggers.tensorboard import TensorBoardLogger


def default_logger(root_dir: str | os.PathLike[str]) -> FolderLogger:
    """A TensorBoardLogger where tensorboard is installed, else a CSVLogger, in `ROOT_DIR/lightning_logs/version_N`.

    Makes no folder; see `torchrelay.loggers.share` for the number N on several ranks.
    """
    kind = CSVLogger if importlib.util.find_spec("tensorboard") is None else TensorBoardLogger
    return kind(root_dir)
