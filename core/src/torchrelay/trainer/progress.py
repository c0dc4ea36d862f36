"""How far a run has come."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Counters of a fit.

    Attributes:
        epoch: epochs completed.
        batch: training batches done in the epoch that is under way.
        global_step: weight updates made.
        batches: training batches done in all.
    """

    epoch: int = 0
    batch: int = 0
    global_step: int = 0
    batches: int = 0

    def close_epoch(self) -> None:
        """Count the epoch that is under way as completed."""
        self.epoch += 1
        self.batch = 0

    def state_dict(self) -> dict[str, Any]:
        """The counters as plain data."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the counters from plain data."""
        for name in asdict(self):
            setattr(self, name, int(state[name]))
