"""A run in which something befalls a rank.

python mortal.py HOW RANK

HOW: `fails` (in training), `killed` (by SIGKILL), or `absent` (from a collective).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from problems import OUT, Regression, loader, quiet

TIMEOUT = 3.0


class Mortal(Regression):
    """Meets its end on one rank."""

    def __init__(self, how: str, rank: int) -> None:
        super().__init__("adamw")
        self.how, self.rank = how, rank

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            (OUT / f"pid-{self.global_rank}").write_text(f"{os.getpid()}\n")
        if (batch_idx, self.global_rank) == (5, self.rank):
            (OUT / f"met-{self.global_rank}").write_text(f"{time.monotonic()}\n")
            self.meet()
        return super().training_step(batch, batch_idx)

    def meet(self) -> None:
        if self.how == "fails":
            raise ValueError("the reason itself")
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)


def main(how: str, rank: str) -> None:
    watched = {"hang_timeout": TIMEOUT} if how == "absent" else {}
    trainer = quiet(strategy="horovod", devices=2, max_epochs=2, **watched)
    trainer.fit(Mortal(how, int(rank)), loader(4))


if __name__ == "__main__":
    main(*sys.argv[1:])
