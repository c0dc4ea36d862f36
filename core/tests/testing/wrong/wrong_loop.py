"""Strategies that do not go together with the loop, in one thing each."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.optim import LBFGS, AdamW
from wrong_base import PairStrategy

from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.testing import Subject


class UpdatesTwice(SingleDeviceStrategy):
    """Has an AdamW of its own, which goes twice as fast."""

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        result = super().optimizer_step(optimizer, closure)
        if type(optimizer) is AdamW:
            optimizer.step()
        return result


class StepsSchedulers(SingleDeviceStrategy):
    """Steps the second scheduler as well, as an engine that owns it would."""

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        result = super().optimizer_step(optimizer, closure)
        for scheduler in self.schedulers[1:]:
            scheduler.step()
        return result


class FirstRate(SingleDeviceStrategy):
    """Updates at the learning rate that it was told first."""

    def build(self, build: Any) -> None:
        super().build(build)
        self.first = {id(o): o.param_groups[0]["lr"] for o in self.optimizers}

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        [group] = optimizer.param_groups
        now, group["lr"] = group["lr"], self.first[id(optimizer)]
        try:
            return super().optimizer_step(optimizer, closure)
        finally:
            group["lr"] = now


class KeepsGradients(SingleDeviceStrategy):
    """Clears no gradients where a single optimizer is stepped by hand."""

    def zero_grad(self, optimizer: Any) -> None:
        by_hand = not self.module.automatic_optimization
        if not by_hand or len(self.optimizers) > 1:
            super().zero_grad(optimizer)


class StepsAll(SingleDeviceStrategy):
    """Updates every parameter, whichever optimizer is asked."""

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        result = super().optimizer_step(optimizer, closure)
        for other in self.optimizers:
            if other is not optimizer:
                other.step()
        return result


class OneEvaluation(SingleDeviceStrategy):
    """Evaluates a closure once, and repeats what it returned."""

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        result = closure()
        optimizer.step(lambda: result)
        return result


class ClearsInStep(SingleDeviceStrategy):
    """Clears gradients after an update, and takes zero_grad for superfluous."""

    def zero_grad(self, optimizer: Any) -> None:
        if isinstance(optimizer, LBFGS) or len(self.optimizers) > 1:
            super().zero_grad(optimizer)

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        result = super().optimizer_step(optimizer, closure)
        optimizer.zero_grad()
        return result


class ClearsToZero(SingleDeviceStrategy):
    """Keeps gradients of zero, by which momentum moves weights."""

    def zero_grad(self, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)


class TriesFirst(SingleDeviceStrategy):
    """Runs a step to record it, before the first one that counts."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0 and self.module.automatic_optimization:
            with torch.no_grad():
                super().training_step(batch, batch_idx)
        return super().training_step(batch, batch_idx)


class Unlimited(SingleDeviceStrategy):
    """Makes a loader of its own from the user's, without the limit."""

    def process_dataloader(self, loader: Any, stage: str) -> Iterable[Any]:
        limited = hasattr(loader, "at_most") and stage == "test"
        return loader.loader if limited else loader


class EvaluatesInTraining(SingleDeviceStrategy):
    """Evaluates through what it has made for training."""

    def evaluation_step(self, name: str, *args: Any) -> Any:
        self.module.train()
        return super().evaluation_step(name, *args)


class AsManyBatches(PairStrategy):
    """Evaluates as many batches on each rank, and leaves the rest."""

    def process_dataloader(self, loader: Any, stage: str) -> Iterable[Any]:
        if stage != "test":
            return loader
        number = int(self.collectives.reduce(len(loader), "min"))
        return list(islice(loader, number))


class FromBehind(SingleDeviceStrategy):
    """Predicts in an order of its own."""

    def process_dataloader(self, loader: Any, stage: str) -> Iterable[Any]:
        return list(loader)[::-1] if stage == "predict" else loader


class LosesTheLast(SingleDeviceStrategy):
    """Reads streams ahead, and stops when the next batch does not come."""

    def process_dataloader(self, loader: Any, stage: str) -> Iterable[Any]:
        try:
            len(loader)
        except TypeError:
            return list(loader)[:-1]
        return loader


class OwnCopy(SingleDeviceStrategy):
    """Trains a copy of the weights, and puts it into the module at the end."""

    @contextmanager
    def stage(self, name: str) -> Any:
        self.copy: dict[str, torch.Tensor] = {}
        yield
        if name == "train" and self.copy:
            self.module.load_state_dict(self.copy)

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        result = super().optimizer_step(optimizer, closure)
        self.copy = {n: each.detach().clone() for n, each in self.module.state_dict().items()}
        return result


def _subject(kind: type, devices: int = 1) -> Subject:
    path = (str(Path(__file__).parent),)
    name = f"wrong_loop:{kind.__name__}"
    return Subject(name, devices=devices, accelerator="cpu", python_path=path)


MUTATIONS = {
    "updates_are_counted": _subject(UpdatesTwice),
    "schedulers_step": _subject(StepsSchedulers),
    "learning_rates_arrive": _subject(FirstRate),
    "manual_optimization": _subject(KeepsGradients),
    "several_optimizers": _subject(StepsAll),
    "closure_optimizers": _subject(OneEvaluation),
    "custom_optimizer_step": _subject(ClearsInStep),
    "skipped_steps": _subject(ClearsToZero),
    "hooks_in_order": _subject(TriesFirst),
    "limits_hold": _subject(Unlimited),
    "evaluation": _subject(EvaluatesInTraining),
    "uneven_evaluation": _subject(AsManyBatches, 2),
    "predictions_in_order": _subject(FromBehind),
    "iterable_datasets": _subject(LosesTheLast),
    "weight_averaging": _subject(OwnCopy),
}
