"""A data module, callbacks, hyper-parameters, the best checkpoint tested, predictions of several loaders."""

# ruff: noqa: F821, N812 - REPORT and its like are lent by the test; L and F are what everybody writes
from __future__ import annotations

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset, random_split


class DataModule(pl.LightningDataModule):
    def __init__(self, batch_size: int = 4):
        super().__init__()
        self.save_hyperparameters()

    def prepare_data(self):
        REPORT["prepared"] = True

    def setup(self, stage: str):
        x = torch.randn(48, 5, generator=torch.Generator().manual_seed(3))
        full = TensorDataset(x, (x.sum(1) > 0).long())
        if stage == "fit":
            generator = torch.Generator().manual_seed(42)
            self.train, self.val = random_split(full, [36, 12], generator=generator)
        if stage in ("test", "predict"):
            self.other = full

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.hparams.batch_size)

    def test_dataloader(self):
        return DataLoader(self.other, batch_size=self.hparams.batch_size)

    def predict_dataloader(self):
        return [DataLoader(self.other, batch_size=8), DataLoader(self.other, batch_size=16)]


class Classifier(pl.LightningModule):
    def __init__(self, hidden: int = 8, learning_rate: float = 0.05):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(5, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 2)
        )

    def forward(self, x):
        return self.net(x)

    def _shared_step(self, batch, stage):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        accuracy = (logits.argmax(1) == y).float().mean()
        self.log_dict({f"{stage}_loss": loss, f"{stage}_acc": accuracy}, prog_bar=True)
        return loss

    def training_step(self, batch, batch_idx):
        return self._shared_step(batch, "train")

    def validation_step(self, batch, batch_idx):
        self._shared_step(batch, "val")

    def test_step(self, batch, batch_idx):
        self._shared_step(batch, "test")

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        x, _ = batch
        return self(x).argmax(1)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)
        REPORT["estimated"] = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.hparams.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
        }


pl.seed_everything(7)
dm = DataModule(batch_size=6)
model = Classifier(hidden=6)
checkpoint = ModelCheckpoint(
    dirpath=f"{FOLDER}/kept",
    monitor="val_loss",
    mode="min",
    save_top_k=1,
    save_last=True,
    filename="{epoch}-{val_loss:.4f}",
)
trainer = pl.Trainer(
    max_epochs=4,
    callbacks=[checkpoint, EarlyStopping("val_loss", patience=3), LearningRateMonitor("step")],
    logger=CSVLogger(FOLDER, name="csv"),
    log_every_n_steps=2,
    gradient_clip_val=0.5,
    **OPTIONS,
)
trainer.fit(model, datamodule=dm)
REPORT["weights"] = {k: v.clone() for k, v in model.state_dict().items()}
REPORT["metrics"] = dict(trainer.callback_metrics)
REPORT["best score"] = checkpoint.best_model_score
REPORT["kept"] = FILES("kept")
REPORT["tested"] = trainer.test(ckpt_path="best", datamodule=dm, verbose=False)
first, second = trainer.predict(model, datamodule=dm)
REPORT["predictions"] = (torch.cat(first), torch.cat(second))
loaded = Classifier.load_from_checkpoint(checkpoint.best_model_path)
REPORT["hparams"] = (loaded.hparams.hidden, loaded.hparams["learning_rate"])
REPORT["lr"] = [round(row["lr-SGD"], 9) for row in ROWS("csv/version_0/metrics.csv", "lr-SGD")]
REPORT["val_loss"] = [row["val_loss"] for row in ROWS("csv/version_0/metrics.csv", "val_loss")]
REPORT["train_loss"] = [
    row["train_loss"] for row in ROWS("csv/version_0/metrics.csv", "train_loss")
]
REPORT["at"] = [row["step"] for row in ROWS("csv/version_0/metrics.csv", "train_loss")]
