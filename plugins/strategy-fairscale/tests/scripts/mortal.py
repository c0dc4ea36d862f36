"""A run in which something befalls a rank.

python mortal.py STRATEGY HOW RANK

STRATEGY is JSON; see `problems.strategy_of`. HOW: `fails` (in training), or `saves` (alone, which takes all).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from problems import OUT, Regression, loader, quiet, strategy_of

TIMEOUT = 3.0


class Mortal(Regression):
    """Fails, or saves alone, on one rank."""

    def __init__(self, how: str, rank: int) -> None:
        super().__init__("adamw")
        self.how, self.rank = how, rank

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            (OUT / f"pid-{self.global_rank}").write_text(f"{os.getpid()}\n")
            (OUT / f"met-{self.global_rank}").write_text(f"{time.monotonic()}\n")
        if (batch_idx, self.global_rank, self.how) == (5, self.rank, "fails"):
            raise ValueError("the reason itself")
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx, self.how) == (5, "saves"):
            self.save_here()

    def save_here(self) -> None:
        strategy = self.trainer.strategy
        if self.global_rank == self.rank:
            strategy.optimizer_state(strategy.optimizers[0])
        else:
            time.sleep(1000)


def main(asked: Any, how: str, rank: str) -> None:
    watched = {"hang_timeout": TIMEOUT} if how == "saves" else {}
    trainer = quiet(strategy=strategy_of(asked), devices=2, max_epochs=2, **watched)
    trainer.fit(Mortal(how, int(rank)), loader(4))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), *sys.argv[2:])
