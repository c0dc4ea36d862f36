"""Train a small problem, once for each argument, which holds arguments of the Trainer as JSON.

Further keys: "period" makes the strategy by its class; "resume" goes on from a file of the folder OUT; "keep" saves one
after so many updates; "momentum" is SGD's. Each rank leaves what it had at the end of training, and after it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchrelay import LightningModule, Trainer
from torchrelay.callbacks import Callback

OUT = Path(os.environ["OUT"])
BATCH = 8


def data() -> TensorDataset:
    """48 samples of 4 numbers and their noisy sums."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(48, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(48, 1, generator=generator, dtype=torch.float64)
    return TensorDataset(x, x.sum(1, keepdim=True) + noise)


class Line(LightningModule):
    """A linear layer."""

    def __init__(self, momentum: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(4, 1, dtype=torch.float64)
        self.momentum = momentum

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return nn.functional.mse_loss(self.layer(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=self.momentum)


class Watch(Callback):
    """Keeps what this rank has before training ends, and saves when it is time."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.own: list[float] = []
        self.validated: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step == self.keep:
            trainer.save_checkpoint(OUT / "kept.ckpt")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.validated = pl_module.layer.weight.flatten().tolist()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.own = pl_module.layer.weight.flatten().tolist()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        left = {
            "own": self.own,
            "validated": self.validated,
            "end": pl_module.layer.weight.flatten().tolist(),
            "steps": trainer.global_step,
            "strategy": type(trainer.strategy).__name__,
            "accelerator": trainer.strategy.accelerator.name,
            "period": getattr(trainer.strategy, "period", None),
            "world": trainer.world_size,
        }
        (OUT / f"rank-{trainer.global_rank}.json").write_text(json.dumps(left))


def main(argument: str) -> None:
    asked = json.loads(argument)
    period, momentum = asked.pop("period", None), asked.pop("momentum", 0.0)
    resume, keep = asked.pop("resume", None), asked.pop("keep", -1)
    if period is not None:
        from acme_local_sgd import LocalSGDStrategy

        asked["strategy"] = LocalSGDStrategy(period=period)
    trainer = Trainer(
        **{
            "precision": "64-true",
            "max_steps": 10,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": OUT,
            "callbacks": Watch(keep),
            **asked,
        }
    )
    module = Line(momentum)
    loader = DataLoader(data(), batch_size=BATCH // trainer.world_size)
    trainer.fit(module, loader, loader, ckpt_path=None if resume is None else OUT / resume)


if __name__ == "__main__":
    main(sys.argv[1])
