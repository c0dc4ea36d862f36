"""The metrics of a barebones run, which has none."""

from __future__ import annotations

import warnings
from typing import Any

from torchrelay.trainer.metrics import Metrics


class NoMetrics(Metrics):
    """Records nothing, and says so once."""

    _said = False

    def log(self, name: str, *args: Any, **options: Any) -> None:
        """Record nothing."""
        self._say(name)

    def record(self, name: str, *args: Any, **options: Any) -> None:
        """Record nothing."""
        self._say(name)

    def _say(self, name: str) -> None:
        if not self._said:
            self._said = True
            warnings.warn(f"log({name!r}) has no effect with Trainer(barebones=True)", stacklevel=4)
