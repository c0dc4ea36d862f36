"""How much of a processor each rank takes while it waits for a slow step, here or under Horovod's own launcher.

python idle.py NAME

Each rank leaves it under NAME.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from problems import Regression, leave, loader, quiet

SECONDS, WINDOWS = 0.5, 8


def wait() -> float:
    """Seconds of processor time in a second of waiting: the least of some windows, as others use the machine too."""
    return min(window() for _ in range(WINDOWS))


def window() -> float:
    """The same, once."""
    begun = time.process_time()
    time.sleep(SECONDS)
    return (time.process_time() - begun) / SECONDS


class Slow(Regression):
    """Waits in a step, and leaves what that took under a name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            leave(self.name, self.global_rank, wait())
        return super().training_step(batch, batch_idx)


def main(name: str) -> None:
    quiet(strategy="horovod", devices=2, max_steps=3).fit(Slow(name), loader(4))


if __name__ == "__main__":
    main(sys.argv[1])
