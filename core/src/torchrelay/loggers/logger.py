"""Logger: what a Trainer needs of anything that records metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

Occasion = Literal["log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize"]


class Logger(Protocol):
    """Anything that records metrics; called on global rank 0 alone.

    Only `log_metrics` is needed. What else a logger may have is called where it has it, so that those written for
    Lightning work as they are: `log_hyperparams(params)` and `log_graph(module)` before fit, `save()` after each
    epoch, `after_save_checkpoint(callback)` when a ModelCheckpoint has kept a file, and `finalize(status)` at the end
    of each stage with "success" or, also when it was interrupted, "failed": MLflow refuses other words. And the
    attributes `name`, `version`, `log_dir`, `save_dir` and `experiment`, for the user's code.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at a weight update."""


def tell(loggers: Iterable[Any], occasion: Occasion, *args: Any) -> None:
    """Call a method of those loggers that have it; for global rank 0.

    Args:
        loggers: the loggers.
        occasion: the method's name.
        *args: its arguments.
    """
    for logger in loggers:
        method = getattr(logger, occasion, None)
        if method is not None:
            method(*args)
