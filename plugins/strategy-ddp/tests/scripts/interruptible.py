"""A run that takes its time, so that it can be interrupted, and that can go on from where it was.

python interruptible.py STRATEGY PROCESSES [CKPT_PATH]

The variable PAUSE makes each training step so many seconds longer. VALIDATION names a file for which each validation
step waits. Each rank writes its process id once it has trained for some steps, or is in a validation that waits, and
leaves its weights at the end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import torch
from problems import OUT, Regression, data, leave, quiet, state_of
from torch.nn.functional import dropout
from torch.utils.data import DataLoader

PAUSE = float(os.environ.get("PAUSE", "0"))
VALIDATION = os.environ.get("VALIDATION", "")
WAIT = 60.0
"""Seconds after which a validation step goes on without the file."""


class Slow(Regression):
    """Draws random numbers in each step, and takes its time."""

    def ready(self) -> None:
        path = OUT / f"pid-{self.global_rank}"
        if not path.exists():
            path.write_text(f"{os.getpid()}\n")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(dropout(x, 0.2, self.training))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(PAUSE)
        if self.trainer.progress.batches == 9 and not VALIDATION:
            self.ready()
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if VALIDATION:
            self.ready()
            deadline = time.monotonic() + WAIT
            while not (OUT / VALIDATION).exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        super().validation_step(batch, batch_idx)


def main(strategy: str, processes: str, ckpt_path: str | None = None) -> None:
    torch.manual_seed(3)
    module = Slow("adamw")
    trainer = quiet(
        strategy=strategy, devices=int(processes), max_epochs=12, accumulate_grad_batches=2
    )
    before = signal.getsignal(signal.SIGTERM)
    workers = {"num_workers": int(os.environ.get("WORKERS", "0"))}
    train = DataLoader(data(), batch_size=4, shuffle=True, **workers)
    begun = time.monotonic()
    trainer.fit(module, train, DataLoader(data(), batch_size=28), ckpt_path=ckpt_path)
    result = {
        "state": state_of(module),
        "steps": trainer.global_step,
        "same_handler": signal.getsignal(signal.SIGTERM) is before,
        "seconds": time.monotonic() - begun,
    }
    leave("end", trainer.global_rank, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
