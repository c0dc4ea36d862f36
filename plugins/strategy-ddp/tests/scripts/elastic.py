"""A run that keeps checkpoints and goes on from the last one; rank 1 fails in the third epoch, once."""

from __future__ import annotations

import os
from typing import Any

import torch
from problems import OUT, STEPS, Regression, data, leave, quiet, state_of
from torch.utils.data import DataLoader

from torchrelay.callbacks import ModelCheckpoint

ATTEMPT = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
LAST = OUT / "checkpoints" / "last.ckpt"


class Fails(Regression):
    """Rank 1 fails in the third epoch of the first attempt."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if (ATTEMPT, self.global_rank, self.current_epoch, batch_idx) == (0, 1, 2, 3):
            raise ValueError("the reason itself")
        return super().training_step(batch, batch_idx)


if __name__ == "__main__":
    torch.manual_seed(3 + ATTEMPT)
    module = Fails("adamw")
    keep = ModelCheckpoint(save_last=True)
    trainer = quiet(
        strategy="ddp",
        max_steps=STEPS,
        precision="64-true",
        callbacks=keep,
        enable_checkpointing=True,
    )
    found = LAST if LAST.exists() else None
    trainer.fit(module, DataLoader(data(), batch_size=4), ckpt_path=found)
    result = {
        "state": state_of(module),
        "steps": trainer.global_step,
        "attempt": ATTEMPT,
        "resumed": found is not None,
    }
    leave("elastic", trainer.global_rank, result)
