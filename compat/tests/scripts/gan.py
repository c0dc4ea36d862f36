"""Manual optimization with two optimizers that are toggled in turn."""

# ruff: noqa: F821, N812 - REPORT and its like are lent by the test; L and F are what everybody writes
from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class GAN(L.LightningModule):
    def __init__(self, latent_dim: int = 4, lr: float = 0.002, b1: float = 0.5):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent_dim, 8), nn.ReLU(), nn.Linear(8, 6))
        self.discriminator = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, y_hat, y):
        return F.binary_cross_entropy_with_logits(y_hat, y)

    def training_step(self, batch):
        (imgs,) = batch
        optimizer_g, optimizer_d = self.optimizers()
        z = torch.randn(imgs.shape[0], self.hparams.latent_dim).type_as(imgs)

        self.toggle_optimizer(optimizer_g)
        valid = torch.ones(imgs.size(0), 1).type_as(imgs)
        g_loss = self.adversarial_loss(self.discriminator(self(z)), valid)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)

        self.toggle_optimizer(optimizer_d)
        real = self.adversarial_loss(self.discriminator(imgs), valid)
        fake = self.adversarial_loss(self.discriminator(self(z).detach()), torch.zeros_like(valid))
        d_loss = (real + fake) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        self.clip_gradients(optimizer_d, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        optimizer_d.step()
        optimizer_d.zero_grad()
        self.untoggle_optimizer(optimizer_d)

    def configure_optimizers(self):
        lr, b1 = self.hparams.lr, self.hparams.b1
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=(b1, 0.999))
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=(b1, 0.999))
        schedulers = [torch.optim.lr_scheduler.ExponentialLR(each, 0.9) for each in (opt_g, opt_d)]
        return [opt_g, opt_d], schedulers

    def on_train_epoch_end(self):
        for scheduler in self.lr_schedulers():
            scheduler.step()
        REPORT.setdefault("steps", []).append(self.global_step)


L.seed_everything(1)
data = TensorDataset(torch.rand(32, 6))
model = GAN()
trainer = L.Trainer(max_epochs=3, **OPTIONS)
trainer.fit(model, DataLoader(data, batch_size=8))
REPORT["weights"] = model.state_dict()
REPORT["bar"] = {k: float(trainer.progress_bar_metrics[k]) for k in ("g_loss", "d_loss")}
REPORT["kept"] = trainer.checkpoint_callback.best_model_path.rsplit("/", 1)[-1]
