"""Ask for forks of a process that has used a GPU."""

from __future__ import annotations

import torch
from problems import Regression, data, quiet
from torch.utils.data import DataLoader

if __name__ == "__main__":
    torch.zeros(1, device="cuda")
    trainer = quiet(strategy="ddp_fork", accelerator="gpu", devices=1, max_epochs=1)
    trainer.fit(Regression(), DataLoader(data(), batch_size=4))
