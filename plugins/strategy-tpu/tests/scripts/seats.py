"""Let each replica tell where it runs.

python seats.py STRATEGY DEVICES [START_METHOD]

DEVICES is a number, or a list of indices.
"""

from __future__ import annotations

import json
import os
import sys

from problems import Regression, leave, loader, quiet

from torchrelay_tpu import TPUSpawnStrategy


class Telling(Regression):
    """Leaves its process, its device and that one's memory, as it ends."""

    def on_train_end(self) -> None:
        super().on_train_end()
        strategy = self.trainer.strategy
        memory = strategy.accelerator.memory_stats(strategy.root_device)
        told = {"pid": os.getpid(), "device": str(strategy.root_device), "memory": memory}
        leave("seats", told, strategy.global_rank)


def main(strategy: str, devices: str, start_method: str = "") -> None:
    chosen = TPUSpawnStrategy(start_method=start_method) if start_method else strategy
    for _ in range(2):
        trainer = quiet(strategy=chosen, accelerator="tpu", devices=json.loads(devices))
        trainer.fit(Telling(), loader(batch=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
