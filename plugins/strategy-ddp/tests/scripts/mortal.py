"""A run in which a rank comes to a bad end.

python mortal.py STRATEGY PLACE RANK HOW

PLACE is setup, training, validation, or nowhere (it then trains until somebody ends it); HOW is raise or
kill. Each rank writes its process id, and the time, once it has trained for some steps.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from problems import OUT, Regression, data, quiet
from torch.utils.data import DataLoader

from torchrelay.callbacks import Callback


class Mortal(Regression):
    """Meets its end at one place, on one rank."""

    def __init__(self, place: str, rank: int, how: str) -> None:
        super().__init__()
        self.place, self.rank, self.how = place, rank, how

    def meet(self, place: str) -> None:
        """The end, if this is where."""
        if (place, self.global_rank) != (self.place, self.rank):
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the reason itself")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.02)
        if batch_idx == 3:
            (OUT / f"pid-{self.global_rank}").write_text(f"{os.getpid()}\n")
            (OUT / f"met-{self.global_rank}").write_text(f"{time.monotonic()}\n")
        if batch_idx == 5:
            self.meet("training")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.meet("validation")
        super().validation_step(batch, batch_idx)


class Setup(Callback):
    """Meets the end before the model is set up."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.meet("setup")


def main(strategy: str, place: str, rank: str, how: str) -> None:
    epochs = -1 if place == "nowhere" else 2
    trainer = quiet(strategy=strategy, devices=2, max_epochs=epochs, callbacks=Setup())
    loader = DataLoader(data(), batch_size=4)
    trainer.fit(Mortal(place, int(rank), how), loader, loader)


if __name__ == "__main__":
    main(*sys.argv[1:])
