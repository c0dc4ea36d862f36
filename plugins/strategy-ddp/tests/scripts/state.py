"""Runs that are interrupted and taken up again.

python state.py DEVICES TASK...

Tasks, done in their order: `whole` (4 epochs), `half` (2 epochs, written to half-DEVICES.ckpt), `from-N` (go on from
half-N.ckpt to the end); and the same as `noisy-...`, with shuffled data, dropout, and an interruption in mid-epoch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from problems import OUT, Regression, data, leave, quiet, state_of
from torch import nn
from torch.utils.data import DataLoader

from torchrelay import LightningModule, Trainer, seed_everything
from torchrelay.callbacks import Callback


class Annealed(Regression):
    """AdamW whose learning rate falls with each epoch; dropout if asked for."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__("adamw")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(torch.tanh(self.first(x))))

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)]


class Save(Callback):
    """Writes a checkpoint when training ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def fit(
    devices: int, noisy: bool, end: dict[str, Any], start: str | None
) -> tuple[Trainer, LightningModule]:
    seed_everything(11)
    module = Annealed(0.5 if noisy else 0.0)
    if start is None:
        # Other dropout on each rank.
        torch.manual_seed(11 + int(os.environ.get("RANK", "0")))
    else:
        # The checkpoint must bring everything: begin from other weights and other random numbers.
        torch.manual_seed(12)
        nn.init.normal_(module.first.weight)
    strategy = "ddp" if devices > 1 else "single_device"
    trainer = quiet(strategy=strategy, devices=devices, precision="64-true", **end)
    loader = DataLoader(data(), batch_size=8 // devices, shuffle=noisy)
    trainer.fit(module, loader, ckpt_path=start)
    return trainer, module


def optimizer_of(trainer: Trainer) -> dict[str, Any]:
    return trainer.strategy.optimizer_state(trainer.optimizers[0])


def main(devices: int, tasks: list[str]) -> None:
    outcomes: dict[str, Any] = {}
    for task in tasks:
        kind = task.removeprefix("noisy-")
        noisy = kind != task
        mark = "noisy-" if noisy else ""
        end: dict[str, Any] = {"max_epochs": 4}
        if kind == "half":
            # 7 batches an epoch: the noisy run is interrupted within one.
            end = {"max_steps": 10} if noisy else {"max_epochs": 2}
            end["callbacks"] = Save(OUT / f"{mark}half-{devices}.ckpt")
        start = (
            f"{OUT}/{mark}half-{kind.removeprefix('from-')}.ckpt"
            if kind.startswith("from-")
            else None
        )
        trainer, module = fit(devices, noisy, end, start)
        outcomes[task] = {
            "state": state_of(module),
            "optimizer": optimizer_of(trainer),
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
    leave(f"state-{devices}", trainer.global_rank, outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
