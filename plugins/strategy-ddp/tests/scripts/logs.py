"""What `self.log` records where ranks have seen different data, or none."""

from __future__ import annotations

import os
import sys

import torch
from problems import Regression, data, leave, quiet
from torch.utils.data import DataLoader, Subset
from torchmetrics import MeanMetric, MetricCollection, SumMetric

from torchrelay.callbacks import Callback

RANK = int(os.environ.get("RANK", "0"))


class Total:
    """Adds up, and over ranks when it is computed."""

    def __init__(self):
        self.sum = torch.zeros((), dtype=torch.float64)

    def compute(self):
        everywhere = self.sum.clone()
        torch.distributed.all_reduce(everywhere)
        return everywhere

    def reset(self):
        self.sum.zero_()


class Objects(Regression):
    """Validates with objects that collect by themselves; the numbers are the samples' own."""

    def __init__(self):
        super().__init__()
        self.mean = MeanMetric()
        self.both = MetricCollection({"sum": SumMetric(), "mean": MeanMetric()}, prefix="both_")
        self.total = Total()

    def validation_step(self, batch, batch_idx):
        numbers = batch[2].double()
        self.mean.update(numbers)
        self.both.update(numbers)
        self.total.sum += numbers.sum()
        self.log("mean", self.mean)
        self.log_dict(self.both)
        self.log("total", self.total)
        self.log("number", numbers.mean(), sync_dist=True)
        self.log("first", float(numbers[0]), rank_zero_only=True)


def validate(samples):
    """The metrics of two validations in a row, on this rank."""
    trainer = quiet(strategy="ddp", devices=2)
    loader = DataLoader(Subset(data(), range(samples)), batch_size=4)
    module = Objects()
    found = [trainer.validate(module, loader)[0] for _ in range(2)]
    return {"found": found, "watched": {k: float(v) for k, v in trainer.callback_metrics.items()}}


def whole():
    return validate(24)


def little():
    return validate(1)


class Unattached(Objects):
    """Logs an object that no attribute of the module is."""

    def validation_step(self, batch, batch_idx):
        self.held = {"total": Total()}
        self.log("total", self.held["total"])


def unattached():
    one = DataLoader(Subset(data(), [0]), batch_size=4)
    quiet(strategy="ddp", devices=2).validate(Unattached(), one)


class Steps(Regression):
    """Logs each rank's own numbers at each step, in an order of its own."""

    def training_step(self, batch, batch_idx):
        ways = ["mean", "sum", "min", "max"]
        for way in ways if RANK == 0 else reversed(ways):
            self.log(way, torch.tensor(1.0 + RANK), sync_dist=True, reduce_fx=way)
        self.log("local", 1.0 + RANK)
        if RANK == 1 and batch_idx >= 2:
            self.log("late", 5.0, sync_dist=True)
        return super().training_step(batch, batch_idx)


class Count(Callback):
    """Counts how often ranks gather the values of a step."""

    def __init__(self):
        self.calls = []

    def on_train_start(self, trainer, pl_module):
        collectives = trainer.strategy.collectives
        for name in ("all_gather", "reduce", "gather_objects"):
            setattr(collectives, name, self.counting(name, getattr(collectives, name)))

    def counting(self, name, method):
        def call(*args, **kwargs):
            self.calls.append(name)
            return method(*args, **kwargs)

        return call

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.calls.append(batch_idx)


def steps():
    rows = []

    class Logger:
        def log_metrics(self, metrics, step=None):
            rows.append(dict(metrics))

    count = Count()
    trainer = quiet(
        strategy="ddp",
        devices=2,
        max_steps=4,
        log_every_n_steps=1,
        logger=Logger(),
        callbacks=count,
    )
    trainer.fit(Steps(), DataLoader(data(), batch_size=4))
    return {"rows": rows, "calls": count.calls}


if __name__ == "__main__":
    torch.manual_seed(5)
    for name in sys.argv[1:]:
        result = globals()[name]()
        if result is not None:
            leave(name, RANK, result)
