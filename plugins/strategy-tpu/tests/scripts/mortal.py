"""Replicas of which one fails: two, or more.

python mortal.py STRATEGY RANK [REPLICAS]
"""

from __future__ import annotations

import sys
from typing import Any

from problems import Regression, loader, quiet


class Mortal(Regression):
    """Fails in its third step, on one rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3 and self.global_rank == self.rank:
            raise ValueError("the reason itself")
        return super().training_step(batch, batch_idx)


if __name__ == "__main__":
    strategy, rank, replicas = (*sys.argv[1:], "2")[:3]
    trainer = quiet(strategy=strategy, accelerator="tpu", devices=int(replicas))
    trainer.fit(Mortal(int(rank)), loader(batch=1))
