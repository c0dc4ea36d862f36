"""Replicas that would train for ever.

python endless.py
"""

from __future__ import annotations

import time
from typing import Any

from problems import Regression, leave, loader, quiet


class Endless(Regression):
    """Says that it has begun, and takes its time."""

    def on_train_start(self) -> None:
        leave("begun", True, self.global_rank)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.5)
        return super().training_step(batch, batch_idx)


if __name__ == "__main__":
    trainer = quiet(strategy="tpu_spawn", accelerator="tpu", devices=2, max_epochs=-1)
    trainer.fit(Endless(), loader(batch=4))
