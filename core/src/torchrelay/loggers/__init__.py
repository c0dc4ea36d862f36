"""Loggers: where metrics are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.loggers.csv_logger import CSVLogger as CSVLogger
    from torchrelay.loggers.default import default_logger as default_logger
    from torchrelay.loggers.logger import Logger as Logger
    from torchrelay.loggers.logger import tell as tell
    from torchrelay.loggers.ranks import share as share
    from torchrelay.loggers.tensorboard import TensorBoardLogger as TensorBoardLogger
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "CSVLogger": ".csv_logger",
            "Logger": ".logger",
            "TensorBoardLogger": ".tensorboard",
            "default_logger": ".default",
            "share": ".ranks",
            "tell": ".logger",
        },
    )
