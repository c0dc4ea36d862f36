"""A warm-up in optimizer_step, a schedule by step, an overridden clipping, and training stopped by max_steps."""

# ruff: noqa: F821 - REPORT and its like are lent by the test; L and F are what everybody writes
from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset


class RandomDataset(Dataset):
    def __init__(self, size, length):
        self.data = torch.randn(length, size, generator=torch.Generator().manual_seed(2))

    def __getitem__(self, index):
        return self.data[index]

    def __len__(self):
        return len(self.data)


class BoringModel(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)
        self.example_input_array = torch.zeros(1, 8)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        loss = self(batch).pow(2).mean()
        self.log("lr", self.optimizers().param_groups[0]["lr"], on_step=True)
        self.log("train_loss", loss)
        return loss

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        if self.trainer.global_step < 3:
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (self.trainer.global_step + 1) / 3

    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_after_backward(self):
        REPORT.setdefault("grads", []).append(float(self.layer.weight.grad.norm()))

    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = self.global_step

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.layer.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


pl.seed_everything(9)
model = BoringModel()
loader = DataLoader(RandomDataset(8, 40), batch_size=4, shuffle=True)
trainer = pl.Trainer(
    max_steps=13, gradient_clip_val=0.1, gradient_clip_algorithm="value", **OPTIONS
)
trainer.fit(model, loader)
trainer.save_checkpoint(f"{FOLDER}/end.ckpt")
REPORT["mine"] = torch.load(f"{FOLDER}/end.ckpt", weights_only=False)["mine"]
REPORT["weights"] = model.state_dict()
REPORT["steps"] = trainer.global_step
REPORT["rate"] = trainer.optimizers[0].param_groups[0]["lr"]
REPORT["on"] = (str(model.device), str(model.dtype))
