"""Callbacks: what acts at moments of a run without being part of the module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.callbacks.callback import Callback as Callback
    from torchrelay.callbacks.callback import Checkpointer as Checkpointer
    from torchrelay.callbacks.early_stopping import EarlyStopping as EarlyStopping
    from torchrelay.callbacks.model_checkpoint import ModelCheckpoint as ModelCheckpoint
    from torchrelay.callbacks.progress_bar import ProgressBar as ProgressBar
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "Callback": ".callback",
            "Checkpointer": ".callback",
            "EarlyStopping": ".early_stopping",
            "ModelCheckpoint": ".model_checkpoint",
            "ProgressBar": ".progress_bar",
        },
    )
