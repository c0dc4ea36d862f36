"""A run that does not come to its first update.

python unready.py STRATEGY PROCESSES PLACE [RANK]

PLACE is where ranks stay: "setup" of the module, "native" code there, which no handler of Python's interrupts, "build"
of the optimizers, "sanity" check or the first "batch". All ranks stay there, or RANK alone, for which the others then
wait in a collective. Each rank writes its process id before it stays, or goes on.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from typing import Any

from problems import OUT, Regression, data, quiet
from torch.utils.data import DataLoader

from torchrelay.launchers.rendezvous import host_store


class Unready(Regression):
    """Stays somewhere for longer than any test waits."""

    def __init__(self, place: str, rank: int | None) -> None:
        super().__init__("adamw")
        self.place, self.rank = place, rank

    def come_to(self, *places: str) -> None:
        if self.place not in places:
            return
        (OUT / f"pid-{self.global_rank}").write_text(f"{os.getpid()}\n")
        if self.rank not in (None, self.global_rank):
            return
        if self.place == "native":
            store = host_store()
            store.set_timeout(timedelta(seconds=600))
            store.get("never")
        time.sleep(600)

    def setup(self, stage: str) -> None:
        self.come_to("setup", "native")

    def configure_optimizers(self) -> Any:
        self.come_to("build")
        return super().configure_optimizers()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.come_to("sanity")
        super().validation_step(batch, batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.come_to("batch")
        return super().training_step(batch, batch_idx)


def main(strategy: str, processes: str, place: str, rank: str | None = None) -> None:
    module = Unready(place, None if rank is None else int(rank))
    trainer = quiet(strategy=strategy, devices=int(processes), max_epochs=1, num_sanity_val_steps=1)
    trainer.fit(module, DataLoader(data(), batch_size=4), DataLoader(data(), batch_size=28))


if __name__ == "__main__":
    main(*sys.argv[1:])
