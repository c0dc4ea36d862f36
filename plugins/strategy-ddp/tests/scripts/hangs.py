"""A run in which one rank keeps the others waiting.

python hangs.py STRATEGY HOW RANK TIMEOUT

HOW is what the rank does in its sixth step: skips (a barrier that the others come to), sleeps, exits (quietly), stops
(is stopped from outside), saves (a checkpoint, alone). Or what keeps nobody waiting for another, and then the run ends
well: together (all ranks take long over a step), prepares (rank 0 takes long over the data). The time at which it
happens is left for the test to read.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from problems import OUT, Regression, data, leave, quiet
from torch.utils.data import DataLoader


class Hanging(Regression):
    """Trains, and in the sixth step of one rank something happens."""

    def __init__(self, how: str, rank: int, timeout: float) -> None:
        super().__init__()
        self.how, self.rank, self.timeout = how, rank, timeout

    def prepare_data(self) -> None:
        if self.how == "prepares":
            time.sleep(2 * self.timeout)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (OUT / f"pid-{self.global_rank}").write_text(f"{os.getpid()}\n")
        if batch_idx == 5:
            getattr(self, f"{self.how}_here")()
        return super().training_step(batch, batch_idx)

    @property
    def is_the_one(self) -> bool:
        if self.global_rank != self.rank:
            return False
        (OUT / "met").write_text(f"{time.monotonic()}\n")
        return True

    def skips_here(self) -> None:
        if not self.is_the_one:
            self.trainer.strategy.collectives.barrier("meeting")

    def sleeps_here(self) -> None:
        if self.is_the_one:
            time.sleep(1000)

    def exits_here(self) -> None:
        if self.is_the_one:
            os._exit(0)

    def stops_here(self) -> None:
        if self.is_the_one:
            os.kill(os.getpid(), signal.SIGSTOP)

    def saves_here(self) -> None:
        if self.is_the_one:
            self.trainer.save_checkpoint(OUT / "alone.ckpt")

    def together_here(self) -> None:
        time.sleep(2 * self.timeout)

    def prepares_here(self) -> None:
        pass


def main(strategy: str, how: str, rank: str, timeout: str) -> None:
    seconds = float(timeout)
    trainer = quiet(strategy=strategy, devices=2, max_epochs=1, hang_timeout=seconds)
    module = Hanging(how, int(rank), seconds)
    trainer.fit(module, DataLoader(data(), batch_size=4))
    leave("hangs", trainer.global_rank, trainer.global_step)


if __name__ == "__main__":
    main(*sys.argv[1:])
