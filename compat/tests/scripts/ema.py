"""A user's own EMA callback, LambdaCallback, a datamodule from datasets, and a run resumed from `last`."""

# ruff: noqa: F821 - REPORT and its like are lent by the test; L and F are what everybody writes
from __future__ import annotations

import copy

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint
from torch.utils.data import TensorDataset


class EMA(Callback):
    def __init__(self, decay=0.9):
        self.decay = decay
        self.average = None

    def on_fit_start(self, trainer, pl_module):
        if self.average is None:
            self.average = copy.deepcopy(pl_module.state_dict())

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for name, value in pl_module.state_dict().items():
            self.average[name].mul_(self.decay).add_(value, alpha=1 - self.decay)
        trainer.strategy.barrier()

    def on_validation_start(self, trainer, pl_module):
        self.kept = copy.deepcopy(pl_module.state_dict())
        if self.average is not None:
            pl_module.load_state_dict(self.average)

    def on_validation_end(self, trainer, pl_module):
        pl_module.load_state_dict(self.kept)

    def state_dict(self):
        return {"average": self.average}

    def load_state_dict(self, state_dict):
        self.average = state_dict["average"]


class Net(pl.LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Sequential(
            torch.nn.Linear(width, 4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1)
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", torch.nn.functional.mse_loss(self.layer(x), y))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
dataset = TensorDataset(x, x.mean(1, keepdim=True))
dm = pl.LightningDataModule.from_datasets(dataset, val_dataset=dataset, batch_size=6, num_workers=0)


def trainer(epochs):
    seen = LambdaCallback(
        on_train_epoch_start=lambda trainer, module: REPORT.setdefault("epochs", []).append(
            trainer.current_epoch
        ),
        on_validation_end=lambda trainer, module: trainer.print("validated", trainer.global_step),
    )
    keeper = ModelCheckpoint(f"{FOLDER}/kept", save_last=True, every_n_epochs=1, save_top_k=-1)
    return pl.Trainer(max_epochs=epochs, callbacks=[EMA(), seen, keeper], **OPTIONS)


pl.seed_everything(11)
model = Net()
trainer(2).fit(model, datamodule=dm)
REPORT["weights"] = {k: v.clone() for k, v in model.state_dict().items()}
REPORT["kept"] = FILES("kept")
pl.seed_everything(12)
resumed = Net.load_from_checkpoint(f"{FOLDER}/kept/last.ckpt")
longer = trainer(3)
longer.fit(resumed, datamodule=dm, ckpt_path=f"{FOLDER}/kept/last.ckpt")
REPORT["steps"] = (longer.current_epoch, longer.global_step)
