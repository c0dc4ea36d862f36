"""A frozen backbone, float64, a validation with several loaders, predictions without gradients, a dry run."""

# ruff: noqa: F821, N812 - REPORT and its like are lent by the test; L and F are what everybody writes
from __future__ import annotations

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset


class Backbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU()
        )

    def forward(self, x):
        return self.net(x)


class FineTuned(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.backbone.requires_grad_(False)
        self.backbone.eval()
        self.head = torch.nn.Linear(8, 1)

    def forward(self, x):
        with torch.no_grad():
            z = self.backbone(x)
        return self.head(z)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = torch.nn.functional.mse_loss(self(x), y)
        REPORT.setdefault("modes", []).append((self.head.training, self.backbone.training))
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx):
        x, y = batch
        self.log("val_loss", torch.nn.functional.mse_loss(self(x), y), batch_size=len(x))

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        assert not torch.is_grad_enabled()
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.1)


L.seed_everything(21)
x = torch.randn(24, 4, dtype=torch.float64)
data = TensorDataset(x, x.sum(1, keepdim=True))
loaders = [DataLoader(data, batch_size=5), DataLoader(data, batch_size=7)]
L.Trainer(fast_dev_run=2, precision="64-true", **OPTIONS).fit(
    FineTuned(), DataLoader(data, 4), loaders
)
L.seed_everything(22)
model = FineTuned()
trainer = L.Trainer(max_epochs=2, precision="64-true", check_val_every_n_epoch=2, **OPTIONS)
trainer.fit(
    model, train_dataloaders=DataLoader(data, batch_size=6, shuffle=True), val_dataloaders=loaders
)
REPORT["weights"] = model.state_dict()
REPORT["validated"] = trainer.validate(model, loaders, verbose=False)
REPORT["predictions"] = trainer.predict(model, [DataLoader(data, batch_size=9)] * 2)
