"""The small model and data that the kit's programs train."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchrelay.module import LightningModule

FEATURES = 8


def linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    """A linear layer with torch's distribution of initial weights, which are the same in every rank.

    Nothing is drawn from torch's own generator, which ranks share where they are threads of a process.
    """
    made = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            drawn = torch.rand(
                parameter.shape, generator=generator, dtype=torch.float64, device="cpu"
            )
            parameter.copy_((2 * drawn - 1) / inputs**0.5)
    return made


class Regression(LightningModule):
    """Two linear layers that learn the sum of their inputs; initial weights are the same in every process."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(linear(FEATURES, 16, seed=7), nn.Tanh(), linear(16, 1, seed=8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The predictions for a batch of inputs (n, FEATURES)."""
        y: torch.Tensor = self.net(x)
        return y

    def loss(self, batch: Any) -> torch.Tensor:
        """The mean squared error."""
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The loss."""
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Log the loss."""
        self.log("val_loss", self.loss(batch), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Log the loss."""
        self.log("test_loss", self.loss(batch), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """The predictions."""
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.05)


def samples(number: int = 32, seed: int = 11) -> TensorDataset:
    """Inputs (number, FEATURES) and their sums (number, 1), the same in every process."""
    x = torch.randn(number, FEATURES, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x.sum(1, keepdim=True))


def loader(number: int = 32, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    """Batches of `samples`; with several ranks each reads its share, `batch_size` is that of one rank."""
    return DataLoader(samples(number), batch_size=batch_size, **options)
