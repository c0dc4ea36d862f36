"""The quick start: an autoencoder, resumed from its checkpoint, and its encoder used on its own."""

# ruff: noqa: F821, N812 - REPORT and its like are lent by the test; L and F are what everybody writes
from __future__ import annotations

import lightning as L
import torch
from torch import nn, utils

L.seed_everything(42, workers=True)


class LitAutoEncoder(L.LightningModule):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        z = self.encoder(x)
        x_hat = self.decoder(z)
        loss = nn.functional.mse_loss(x_hat, x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


encoder = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 16))
autoencoder = LitAutoEncoder(encoder, decoder)

dataset = utils.data.TensorDataset(torch.rand(40, 4, 4), torch.zeros(40))
train_loader = utils.data.DataLoader(dataset, batch_size=4, shuffle=True)
trainer = L.Trainer(limit_train_batches=8, max_epochs=2, **OPTIONS)
trainer.fit(model=autoencoder, train_dataloaders=train_loader)

checkpoint = trainer.checkpoint_callback.best_model_path
again = LitAutoEncoder.load_from_checkpoint(checkpoint, encoder=encoder, decoder=decoder)
again.freeze()
REPORT["embeddings"] = again.encoder(torch.ones(2, 16))
REPORT["weights"] = autoencoder.state_dict()
REPORT["logged"] = trainer.logged_metrics
REPORT["steps"] = (trainer.current_epoch, trainer.global_step)
