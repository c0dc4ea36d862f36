"""What the programs of these tests train."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from torchrelay import LightningModule, Trainer
from torchrelay.callbacks import Callback
from torchrelay.testing.models import linear

OUT = Path(os.environ["OUT"])
BATCH, BATCHES = 8, 7

OPTIMIZERS: dict[str, Any] = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1),
}


class Regression(LightningModule):
    """Two layers, and a third that shares the second's weight.

    Args:
        optimizer: one of `OPTIMIZERS`.
        dropout: share of the hidden numbers that are left out.
        logs: log the loss at each step.
    """

    def __init__(self, optimizer: str = "adamw", dropout: float = 0.0, logs: bool = False) -> None:
        super().__init__()
        self.first, self.hidden, self.again, self.last = (
            linear(*sizes, seed)
            for seed, sizes in enumerate(((8, 16), (16, 16), (16, 16), (16, 1)))
        )
        self.again.weight = self.hidden.weight
        self.register_buffer("seen", torch.zeros(()))
        self.optimizer, self.dropout, self.logs = optimizer, dropout, logs
        self.facts: dict[str, Any] = {}
        self.divided: dict[str, bool] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        x = nn.functional.dropout(x, self.dropout, self.training)
        return self.last(torch.tanh(self.again(torch.tanh(self.hidden(x)))))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.seen += 1
        loss = nn.functional.mse_loss(self(x), y)
        if self.logs:
            self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self(x), y), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.optimizer](self.parameters())
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.facts["built on"] = {p.device.type for p in self.parameters()}
        self.facts["all there"] = mine == {id(p) for p in self.parameters()}
        return optimizer

    def on_train_end(self) -> None:
        self.facts["tied"] = self.again.weight is self.hidden.weight
        state = self.trainer.strategy.optimizers[0].state
        for name, parameter in self.named_parameters():
            moments = [each for each in state[parameter].values() if each.shape == parameter.shape]
            self.divided[name] = all(map(is_divided, [parameter, *moments]))


def is_divided(tensor: torch.Tensor) -> bool:
    """Whether XLA divides a tensor between devices."""
    if tensor.device.type != "xla":
        return False
    import torch_xla

    return "devices=" in torch_xla._XLAC._get_xla_sharding_spec(tensor)


def data(number: int = BATCH * BATCHES) -> TensorDataset:
    """Samples, the same in every process."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(number, 8, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True) / 4)


class Stream(IterableDataset[Any]):
    """The same without a length."""

    def __iter__(self) -> Any:
        return iter([data()[i] for i in range(BATCH * BATCHES)])


def loader(number: int = BATCH * BATCHES, batch: int = BATCH, **options: Any) -> DataLoader[Any]:
    return DataLoader(data(number), batch, **options)


def quiet(**options: Any) -> Trainer:
    """A Trainer that says nothing and keeps nothing."""
    usual = {
        "max_epochs": 2,
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": OUT,
    }
    return Trainer(**{**usual, **options})


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach().cpu().clone() for name, each in module.state_dict().items()}


def leave(name: str, value: Any, rank: int = 0) -> None:
    torch.save(value, OUT / f"{name}-{rank}.pt")


class Save(Callback):
    """Writes a checkpoint after so many updates."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.at = path, at

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)
