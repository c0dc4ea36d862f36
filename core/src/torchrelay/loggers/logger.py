"""Logger: what a Trainer needs of anything that records metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Logger(Protocol):
    """Anything that records metrics; called on global rank 0 alone."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at a weight update."""
