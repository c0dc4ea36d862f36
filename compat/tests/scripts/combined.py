"""Several loaders at once, accumulation, a validation within the epoch, gradient norms, and a custom logger call."""

# ruff: noqa: F821 - REPORT and its like are lent by the test; L and F are what everybody writes
from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader, grad_norm, rank_zero_info, rank_zero_only
from torch.utils.data import DataLoader, TensorDataset


def loader(n, batch_size):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=batch_size)


@rank_zero_only
def note(name, value):
    REPORT.setdefault(name, []).append(value)


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.validation_outputs = []

    def loss(self, batch):
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch["a"]) + 0.5 * self.loss(batch["b"])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss, "sizes": (len(batch["a"][0]), len(batch["b"][0]))}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        note("outputs", (float(outputs["loss"]), outputs["sizes"]))

    def on_before_optimizer_step(self, optimizer):
        self.log_dict(grad_norm(self.layer, norm_type=2))

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        loss = self.loss(batch)
        self.validation_outputs.append(loss)
        self.log("val_loss", loss)
        self.log("all", loss, add_dataloader_idx=False) if dataloader_idx == 0 else None

    def on_validation_epoch_end(self):
        mean = torch.stack(self.validation_outputs).mean()
        if not self.trainer.sanity_checking:
            self.logger.log_metrics({"own": float(mean)}, step=self.global_step)
        self.validation_outputs.clear()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


pl.seed_everything(5)
rank_zero_info("begin")
model = Net()
trainer = pl.Trainer(
    max_epochs=3,
    accumulate_grad_batches=2,
    val_check_interval=0.5,
    log_every_n_steps=1,
    logger=CSVLogger(FOLDER, name="csv"),
    **OPTIONS,
)
together = CombinedLoader({"a": loader(24, 4), "b": loader(9, 3)}, mode="max_size_cycle")
trainer.fit(model, together, [loader(8, 4), loader(6, 3)])
REPORT["weights"] = model.state_dict()
REPORT["names"] = sorted(trainer.callback_metrics)
REPORT["metrics"] = trainer.callback_metrics
REPORT["own"] = [row["own"] for row in ROWS("csv/version_0/metrics.csv", "own")]
REPORT["norms"] = [
    row["grad_2.0_norm_total"] for row in ROWS("csv/version_0/metrics.csv", "grad_2.0_norm_total")
]
