"""Let each replica tell where it runs.

python seats.py STRATEGY DEVICES
"""

from __future__ import annotations

import os
import sys

from problems import Regression, leave, loader, quiet


class Telling(Regression):
    """Leaves its process, its device and that one's memory, as it ends."""

    def on_train_end(self) -> None:
        super().on_train_end()
        strategy = self.trainer.strategy
        memory = strategy.accelerator.memory_stats(strategy.root_device)
        told = {"pid": os.getpid(), "device": str(strategy.root_device), "memory": memory}
        leave("seats", told, strategy.global_rank)


if __name__ == "__main__":
    quiet(strategy=sys.argv[1], accelerator="tpu", devices=int(sys.argv[2])).fit(
        Telling(), loader(batch=1)
    )
