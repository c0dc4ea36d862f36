"""Writes the files of Lightning beside it, with Lightning itself.

    python3.11 -m venv /tmp/lightning
    /tmp/lightning/bin/pip install -c constraints.txt lightning numpy
    /tmp/lightning/bin/python core/tests/checkpoint/data/make_lightning_files.py

Two epochs of six batches, without shuffling, so that a run that goes on from one of the files can be compared with
`finished.ckpt`, where Lightning itself ended.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

HERE = Path(__file__).parent
BATCHES = 6


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4 * BATCHES, 3, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


class Regression(lightning.LightningModule):
    def __init__(self, width: int = 2, rate: float = 0.1, extra: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.layers(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.layers(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["rate"])
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class SaveAt(Callback):
    """Saves at one call of a hook; ModelCheckpoint saves in the same three hooks."""

    def __init__(self, hook: str, calls: int, path: Path) -> None:
        self.left = calls
        setattr(self, hook, lambda trainer, *_: self.save(trainer, path))

    def save(self, trainer: lightning.Trainer, path: Path) -> None:
        if not trainer.sanity_checking:
            self.left -= 1
            if self.left == 0:
                trainer.save_checkpoint(path)


def train(module: Regression, *callbacks: Callback, **options: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data(), data())
    return trainer


def main() -> None:
    warnings.filterwarnings("ignore")
    trainer = train(
        Regression(),
        EarlyStopping("val_loss", patience=5),
        SaveAt("on_train_batch_end", BATCHES + 2, HERE / "inside_epoch.ckpt"),
        SaveAt("on_train_batch_end", BATCHES, HERE / "last_batch.ckpt"),
        SaveAt("on_validation_end", 1, HERE / "validated.ckpt"),
        SaveAt("on_train_epoch_end", 1, HERE / "epoch_end.ckpt"),
        SaveAt("on_train_epoch_start", 2, HERE / "epoch_start.ckpt"),
        # The folder goes into the files, so it is none of this machine's.
        ModelCheckpoint("memory://run", "best", monitor="val_loss", save_last=True),
    )
    trainer.save_checkpoint(HERE / "finished.ckpt")
    trainer.save_checkpoint(HERE / "weights.ckpt", weights_only=True)
    extra = {"place": Path("data"), "options": argparse.Namespace(depth=1)}
    trainer = train(Regression(extra=extra), enable_checkpointing=False)
    trainer.save_checkpoint(HERE / "objects.ckpt")


if __name__ == "__main__":
    main()
