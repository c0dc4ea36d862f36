"""Fit, test and predict in other processes, and leave what came back to this one.

python comes_back.py STRATEGY [evaluate]
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from problems import Regression, data, leave, quiet, state_of
from torch.utils.data import DataLoader

from torchrelay.callbacks import Callback, ModelCheckpoint


class Logs(Regression):
    """Logs its training loss as well."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def predict_step(self, batch: Any, *args: Any) -> Any:
        return self(batch[0])


class Counter(Callback):
    """Counts batches, and leaves what it sees where it is."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]

    def on_train_batch_end(self, *_: Any) -> None:
        self.count += 1

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        result = {"pid": os.getpid(), "fitted": state_of(pl_module), "metrics": metrics}
        leave("inside", trainer.global_rank, result)


def main(strategy: str, evaluate: bool) -> None:
    torch.manual_seed(3)
    module, counter = Logs(), Counter()
    best = ModelCheckpoint(monitor="val_loss")
    trainer = quiet(
        strategy=strategy,
        devices=2,
        max_epochs=2,
        callbacks=[counter, best],
        enable_checkpointing=True,
    )
    loader = DataLoader(data(), batch_size=4)
    initial = state_of(module)
    trainer.fit(module, loader, loader)
    result: dict[str, Any] = {
        "pid": os.getpid(),
        "initial": initial,
        "fitted": state_of(module),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "counted": counter.count,
        "epoch": trainer.current_epoch,
        "step": trainer.global_step,
        "best": best.best_model_path,
        "score": best.best_model_score,
    }
    if evaluate:
        result["tested"] = trainer.test(module, loader, ckpt_path="best")
        result["predicted"] = trainer.predict(module, loader)
        with torch.no_grad():
            result["expected"] = module(data().tensors[0])
    leave("caller", 0, result)


if __name__ == "__main__":
    main(sys.argv[1], "evaluate" in sys.argv)
