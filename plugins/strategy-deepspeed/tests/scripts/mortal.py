"""A run in which a rank fails in training.

python mortal.py STAGE RANK
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from problems import OUT, Regression, loader, quiet


class Mortal(Regression):
    """Fails on one rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            (OUT / f"pid-{self.global_rank}").write_text(f"{os.getpid()}\n")
            (OUT / f"met-{self.global_rank}").write_text(f"{time.monotonic()}\n")
        if (batch_idx, self.global_rank) == (5, self.rank):
            raise ValueError("the reason itself")
        return super().training_step(batch, batch_idx)


def main(stage: str, rank: str) -> None:
    trainer = quiet(strategy=f"deepspeed_stage_{stage}", devices=2, max_epochs=2)
    trainer.fit(Mortal(int(rank)), loader(4))


if __name__ == "__main__":
    main(*sys.argv[1:])
