"""Train on a data module in two processes; usage: data_module.py STRATEGY."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from problems import data, leave, quiet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchrelay import LightningDataModule, LightningModule

FILE = Path(os.environ["OUT"]) / "prepared.pt"


class Data(LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.ranks: list[int] = []

    def prepare_data(self) -> None:
        time.sleep(0.5)  # a rank that did not wait would find no file
        with open(FILE.with_suffix(".log"), "a", encoding="utf-8") as log:
            log.write(f"{self.trainer.local_rank}\n")
        torch.save(data().tensors, FILE)

    def setup(self, stage: str) -> None:
        self.dataset = TensorDataset(*torch.load(FILE))
        with open(
            FILE.with_name(f"setup-{self.trainer.global_rank}"), "w", encoding="utf-8"
        ) as log:
            log.write(stage)

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=self.hparams.batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {"batch_size": self.hparams.batch_size}


class Late(LightningModule):
    """Makes its layer in `configure_model`, and takes the batch alone."""

    def __init__(self, rate: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer: nn.Module | None = None

    def configure_model(self) -> None:
        if self.layer is None:
            torch.manual_seed(1)
            self.layer = nn.Linear(8, 1)

    def training_step(self, batch: Any) -> Any:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)


def main() -> None:
    module, datamodule = Late(), Data()
    trainer = quiet(strategy=sys.argv[1], devices=2, max_epochs=1)
    trainer.fit(module, datamodule=datamodule)
    rank = (
        trainer.global_rank if sys.argv[1] == "ddp" else 0
    )  # the caller of other processes is none of them
    leave("result", rank, {"state": module.state_dict(), "steps": trainer.global_step})


if __name__ == "__main__":
    main()
