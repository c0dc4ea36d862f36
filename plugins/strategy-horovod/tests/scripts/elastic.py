"""Train in an elastic job in which something happens.

python elastic.py HOW

HOW: `dies` (the rank on the host 127.0.0.1, after some updates), `dies early` (before anything was committed),
`grows` (another host comes), or `stays`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import torch
from problems import OUT, Regression, leave, loader, quiet, state_of

from torchrelay.callbacks import Callback
from torchrelay_horovod import ElasticCommit

DIES_AT = 5
HOST = os.environ["HOROVOD_HOSTNAME"]


class Commit(ElasticCommit):
    """Leaves a file for each commit, from which the test goes on by itself."""

    def commit(self, trainer: Any) -> None:
        if not (OUT / f"commit-{trainer.global_step}.ckpt").exists():
            trainer.strategy.barrier("file")
            trainer.save_checkpoint(OUT / f"commit-{trainer.global_step}.ckpt")
        super().commit(trainer)


class Happens(Callback):
    """Lets it happen, and notes how many ranks make each update.

    Args:
        how: what.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self.worlds: list[tuple[int, int]] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        self.worlds.append((step, trainer.world_size))
        if self.how == "dies" and HOST == "127.0.0.1" and step == DIES_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "grows":
            if step == 2 and trainer.world_size == 1:
                (OUT / "hosts").write_text("localhost:1\n127.0.0.1:1\n")
            if trainer.world_size == 1:
                time.sleep(0.25)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.how == "grows" and trainer.world_size == 2:
            trainer.should_stop = True


class Doomed(Regression):
    """Loses a rank before the first commit."""

    def on_fit_start(self) -> None:
        if HOST == "127.0.0.1":
            os.kill(os.getpid(), signal.SIGKILL)


def main(how: str) -> None:
    torch.manual_seed(3 + int(os.environ["HOROVOD_RANK"]))
    module = (Doomed if how == "dies early" else Regression)("adamw")
    happens = Happens(how)
    trainer = quiet(
        strategy="horovod",
        max_epochs=200 if how == "grows" else 3,
        precision="64-true",
        callbacks=[happens, Commit(2) if how != "grows" else ElasticCommit(1)],
    )
    trainer.fit(module, loader(4))
    facts = {"worlds": happens.worlds, "steps": trainer.global_step, "epoch": trainer.current_epoch}
    leave(f"elastic-{HOST}", 0, {**facts, "state": state_of(module), "pid": os.getpid()})


if __name__ == "__main__":
    main(sys.argv[1])
