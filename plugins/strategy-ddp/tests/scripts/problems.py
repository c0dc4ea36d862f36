"""Small models, data, and what is to be done with them, for the programs beside this module."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchrelay import LightningModule, Trainer
from torchrelay.strategies import DDPStrategy

OUT = Path(os.environ["OUT"])
BATCH = 8
STEPS = 20

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def data(samples: int = 56, repeat_first: int = 0) -> TensorDataset:
    """Samples of 8 numbers with 4 targets and an index; the first ones may come again at the end."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, 8, generator=generator)
    y = torch.randn(samples, 4, generator=generator)
    tensors = [x, y, torch.arange(samples)]
    return TensorDataset(*(torch.cat([tensor, tensor[:repeat_first]]) for tensor in tensors))


class Regression(LightningModule):
    """Two linear layers."""

    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__()
        self.kind = optimizer
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", mse_loss(self(batch[0]), batch[1]), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", mse_loss(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.kind](self.parameters())


class Normalized(Regression):
    """Batch norm, whose statistics are each rank's own in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.seen: list[dict[str, torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.norm(self.first(x))))

    def on_validation_epoch_start(self) -> None:
        self.seen.append(state_of(self.norm))

    def val_dataloader(self) -> Any:
        return DataLoader(data(), batch_size=BATCH)


@dataclass
class Problem:
    """A training run.

    Args:
        module: makes the model.
        data: makes the data.
        precision: the Trainer's.
        trainer: further arguments of the Trainer.
        options: of DDPStrategy.
        batch: samples of a step, over all ranks.
    """

    module: Callable[[], LightningModule]
    data: Callable[[], Dataset[Any]] = data
    precision: str = "64-true"
    trainer: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = BATCH

    def fit(self, devices: int, **arguments: Any) -> tuple[Trainer, LightningModule]:
        """Train, in one process or under DDP."""
        torch.manual_seed(3)
        module = self.module()
        strategy = "single_device" if devices == 1 else DDPStrategy(**self.options)
        options = {"max_steps": STEPS, "precision": self.precision, **self.trainer, **arguments}
        trainer = quiet(strategy=strategy, devices=devices, **options)
        trainer.fit(module, DataLoader(self.data(), batch_size=self.batch // devices))
        return trainer, module


def quiet(**arguments: Any) -> Trainer:
    """A Trainer on the CPU that neither shows progress nor, unless told so, keeps checkpoints."""
    defaults = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "logger": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(OUT),
    }
    return Trainer(**{**defaults, **arguments})


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def leave(name: str, rank: int, result: Any) -> None:
    """Leave a rank's result for the test to read."""
    torch.save(result, OUT / f"{name}-{rank}.pt")
