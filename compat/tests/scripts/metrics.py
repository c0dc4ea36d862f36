"""torchmetrics: single metrics, a collection, by step and by epoch."""

# ruff: noqa: F821, N812 - REPORT and its like are lent by the test; L and F are what everybody writes
from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
import torchmetrics
from torch.utils.data import DataLoader, TensorDataset


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 3)
        self.train_acc = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.valid = torchmetrics.MetricCollection(
            {
                "acc": torchmetrics.Accuracy(task="multiclass", num_classes=3),
                "f1": torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro"),
            },
            prefix="val_",
        )
        self.mean_loss = torchmetrics.MeanMetric()

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.layer(x)
        loss = F.cross_entropy(logits, y)
        self.train_acc(logits, y)
        self.log("train_acc", self.train_acc, on_step=True, on_epoch=True)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.layer(x)
        self.valid.update(logits, y)
        self.mean_loss.update(F.cross_entropy(logits, y))
        self.log("val_mean_loss", self.mean_loss)

    def on_validation_epoch_end(self):
        self.log_dict(self.valid.compute())
        self.valid.reset()

    def on_train_epoch_end(self):
        REPORT.setdefault("epochs", []).append(
            {k: float(v) for k, v in self.trainer.callback_metrics.items()}
        )

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
                "monitor": "val_mean_loss",
            },
        }


L.seed_everything(3, workers=True)
x = torch.randn(30, 6)
y = torch.randint(0, 3, (30,))
model = Net()
trainer = L.Trainer(max_epochs=3, log_every_n_steps=1, **OPTIONS)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
trainer.fit(model, loader, DataLoader(TensorDataset(x, y), batch_size=7))
REPORT["weights"] = model.layer.state_dict()
REPORT["validated"] = trainer.validate(
    model, DataLoader(TensorDataset(x, y), batch_size=7), verbose=False
)
