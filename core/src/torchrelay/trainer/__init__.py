"""Trainer: resolves what the user asked for, launches it, and runs the loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer as Trainer
else:
    __getattr__, __dir__, __all__ = attach(__name__, {"Trainer": ".trainer"})
