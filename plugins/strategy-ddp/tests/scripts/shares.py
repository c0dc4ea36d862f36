"""What two ranks read of their data; usage: shares.py CASE."""

from __future__ import annotations

import os
import sys

import torch
from problems import leave, quiet
from torch.utils.data import DataLoader, IterableDataset

from torchrelay import LightningModule

STRATEGY = {"strategy": "ddp", "devices": 2}


class Numbered(IterableDataset):
    """Rank 1 has fewer samples than rank 0, and neither says how many."""

    def __init__(self, own: tuple[int, int]) -> None:
        self.own = own

    def __iter__(self):
        rank = torch.distributed.get_rank()
        return iter(torch.ones(self.own[rank], 8))


class Sized:
    """Batches, of which a rank has its own number."""

    def __init__(self, own: tuple[int, int]) -> None:
        self.own = own

    def __len__(self):
        return self.own[torch.distributed.get_rank() if torch.distributed.is_initialized() else 0]

    def __iter__(self):
        return iter(torch.ones(len(self), 4, 8))


class Predicts(LightningModule):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return {"first": int(batch[0]), "number": len(batch), "loader": dataloader_idx}


class Flat(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def predicted(strategy):
    numbers = torch.arange(13)
    loaders = {
        "one": DataLoader(numbers, batch_size=2),
        "shuffled": DataLoader(numbers, batch_size=3, sampler=list(reversed(range(13)))),
        "items": DataLoader([numbers[:3], numbers[3:5], numbers[5:]], batch_size=None),
        "two": [DataLoader(numbers, batch_size=4), DataLoader(numbers[:1], batch_size=4)],
    }
    trainer = quiet(**strategy)
    return {name: trainer.predict(Predicts(), loader) for name, loader in loaders.items()}


def main() -> None:
    case = sys.argv[1]
    if case == "predict":
        leave("result", int(os.environ.get("LOCAL_RANK", "0")), predicted(STRATEGY))
        return
    if case == "alone":
        leave("alone", 0, predicted({"strategy": "single_device", "devices": 1}))
        return
    loaders = {
        "unsized": lambda: DataLoader(Numbered((6, 4)), batch_size=2),
        "unsized-none": lambda: DataLoader(Numbered((6, 0)), batch_size=2),
        "unsized-equal": lambda: DataLoader(Numbered((6, 5)), batch_size=2),
        "sized": lambda: Sized((3, 2)),
        "small": lambda: DataLoader(torch.ones(1, 8)),
    }
    trainer = quiet(**STRATEGY, max_epochs=1)
    trainer.fit(Flat(), loaders[case]())
    leave("result", trainer.global_rank, {"steps": trainer.global_step})


if __name__ == "__main__":
    main()
