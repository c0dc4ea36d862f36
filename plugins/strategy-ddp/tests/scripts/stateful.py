"""Runs on loaders that keep their place, saved after each update and taken up again; usage: stateful.py KIND..."""

from __future__ import annotations

import sys
import warnings

import torch
from problems import OUT, Regression, data, leave, quiet, state_of
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from torchrelay import CombinedLoader, seed_everything
from torchrelay.callbacks import ModelCheckpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchdata.stateful_dataloader import StatefulDataLoader

SAMPLES = data(26)


class Own(IterableDataset):
    """This rank's samples, in an order of the epoch that the data set counts."""

    def __init__(self):
        self.epoch = self.at = 0

    def __iter__(self):
        worker, workers = (
            (0, 1) if (info := get_worker_info()) is None else (info.id, info.num_workers)
        )
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(SAMPLES), generator=generator)[torch.distributed.get_rank() :: 2]
        mine = order.tolist()[worker::workers]
        while self.at < len(mine):
            self.at += 1
            yield SAMPLES[mine[self.at - 1]]
        self.epoch, self.at = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state):
        self.epoch, self.at = state["epoch"], state["at"]


def loader(dataset, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # which torchdata calls
        return StatefulDataLoader(dataset, batch_size=3, **options)


KINDS = {
    "shuffled": lambda: loader(SAMPLES, shuffle=True),
    "workers": lambda: loader(SAMPLES, shuffle=True, num_workers=2),
    "stream": lambda: loader(Own()),
    "together": lambda: CombinedLoader(
        [loader(SAMPLES, shuffle=True), loader(data(10), shuffle=True)], "max_size_cycle"
    ),
}


class Noisy(Regression):
    """Dropout, and a note of the samples of each batch."""

    def __init__(self) -> None:
        super().__init__("adamw")
        self.dropout = nn.Dropout(0.3)
        self.seen = []

    def forward(self, x):
        return self.second(self.dropout(torch.tanh(self.first(x))))

    def training_step(self, batch, batch_idx):
        if isinstance(batch[0], (list, tuple)):
            batch = [torch.cat(part) for part in zip(*batch, strict=True)]
        self.seen.append((self.current_epoch, batch[2].tolist()))
        return super().training_step(batch, batch_idx)


def fit(kind, seed, ckpt_path=None, **options):
    seed_everything(seed)
    module = Noisy()
    trainer = quiet(strategy="ddp", devices=2, max_epochs=3, **options)
    torch.manual_seed(seed + trainer.global_rank)
    trainer.fit(module, KINDS[kind](), ckpt_path=ckpt_path)
    return trainer, {"state": state_of(module), "seen": module.seen, "steps": trainer.global_step}


def main() -> None:
    result = {}
    for kind in sys.argv[1:]:
        folder = OUT / kind
        steps = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer, whole = fit(kind, 3, callbacks=[steps], enable_checkpointing=True)
        number = whole["steps"] // 3
        result[kind] = {"whole": whole}
        for at in (2, number + 1):
            path = f"{folder}/step={at}.ckpt"
            result[kind][at] = fit(kind, 3, ckpt_path=path)[1]
    leave("stateful", trainer.global_rank, result)


if __name__ == "__main__":
    main()
