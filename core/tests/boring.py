"""A small model and its data, for every test that runs the real loop; tests reach it through the fixture `boring`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchrelay import LightningModule

FEATURES = 4


class Regression(LightningModule):
    """A small network that learns the sum of its inputs."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def regression(*, seed: int = 0, dropout: float = 0.0, **methods: Any) -> Regression:
    """A `Regression` whose initial weights the seed decides, with some of its methods replaced."""
    torch.manual_seed(seed)
    made: Regression = type("Regression", (Regression,), methods)(dropout)
    return made


def samples(number: int = 20, seed: int = 1) -> TensorDataset:
    """Inputs (number, FEATURES) and their sums (number, 1)."""
    x = torch.randn(number, FEATURES, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x.sum(1, keepdim=True))


def loader(number: int = 20, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    """Batches of `samples`."""
    return DataLoader(samples(number), batch_size=batch_size, **options)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the module's state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference between two states."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


class Stream:
    """Batches without a length."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)
