"""Small models, each with what a backend may get wrong in it, and what is trained of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader

from torchrelay.callbacks import Callback
from torchrelay.plugin.specs import Capability
from torchrelay.testing.context import Context
from torchrelay.testing.models import FEATURES, Regression, linear, samples
from torchrelay.testing.training import BATCH, Place, in_each_process

UPDATES = 7
"""Batches of a training; windows of three leave one for a window of its own."""


PLAIN_SGD = partial(SGD, lr=0.05)


class Trained(Regression):
    """A regression that notes what is to be compared besides weights, with an optimizer of choice."""

    def __init__(self, optimizer: Callable[..., Optimizer] = PLAIN_SGD) -> None:
        super().__init__()
        self.make_optimizer = optimizer
        self.notes: dict[str, Any] = {}

    def configure_optimizers(self) -> Any:
        """The optimizer of choice."""
        return self.make_optimizer(self.parameters())


class Tied(Trained):
    """The hidden layer is used twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.again = (linear(16, 16, seed) for seed in (1, 2))
        self.again.weight = self.hidden.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Through the tied layers."""
        inner = torch.tanh(self.net[0](x))
        y: torch.Tensor = self.net[2](torch.tanh(self.again(torch.tanh(self.hidden(inner)))))
        return y

    def on_train_end(self) -> None:
        """Note whether it is one parameter still."""
        self.notes["tied"] = self.again.weight is self.hidden.weight


class Frozen(Trained):
    """The first layer is not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0].requires_grad_(False)


class Sometimes(Trained):
    """A layer takes part in every third batch alone, and two more in what some ranks read of a batch.

    Args:
        as_zero: let what takes no part have a gradient of zero.
    """

    def __init__(self, as_zero: bool = False) -> None:
        super().__init__(partial(Adam, lr=0.02))
        self.as_zero = as_zero
        self.third, self.small, self.large = (linear(FEATURES, 1, seed) for seed in (1, 2, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Samples whose first input is positive go through one layer, the others through the other one."""
        x, y = batch
        out = self(x) + (self.third(x) if batch_idx % 3 == 0 else 0)
        total = out.new_zeros(())
        for mine, branch in ((x[:, 0] > 0, self.large), (x[:, 0] <= 0, self.small)):
            if mine.any():
                total = total + (out[mine] + branch(x[mine]) - y[mine]).square().sum()
        unused = sum(0 * each.sum() for each in self.parameters()) if self.as_zero else 0
        return total / len(x) + unused


class Normalized(Trained):
    """Batch norm, whose statistics are each rank's own in training unless they are synchronised."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1] = nn.Sequential(nn.BatchNorm1d(16), nn.Tanh())

    def on_validation_start(self) -> None:
        """Note with which statistics this rank evaluates."""
        self.notes["statistics"] = {name: each.clone() for name, each in self.named_buffers()}


class Watched(Trained):
    """Notes the gradients of each update."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Note them."""
        found = {
            name: each.grad.clone()
            for name, each in self.named_parameters()
            if each.grad is not None
        }
        self.notes.setdefault("gradients", []).append(found)


class Small(Trained):
    """A loss so small that 16-mixed, which begins with a large scale, overflows on no rank."""

    SCALE = 0.01

    def __init__(self) -> None:
        super().__init__(partial(SGD, lr=0.05 / self.SCALE))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """A part of the loss."""
        return self.loss(batch) * self.SCALE


@dataclass(frozen=True)
class Problem:
    """A training.

    Args:
        module: makes the model.
        trainer: further arguments of the Trainer.
        short_by: samples of each rank that its last batch lacks.
        together: arguments of the Trainer where there are several processes.
        needs: without it there is no such training.
        validates: whether there is validation, where the strategy has it.
    """

    module: Callable[[], Trained]
    trainer: Mapping[str, Any] = field(default_factory=dict)
    short_by: int = 0
    together: Mapping[str, Any] = field(default_factory=dict)
    needs: Capability | None = None
    validates: bool = False


def _clipped(value: float, algorithm: str) -> dict[str, Any]:
    return {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}


IN_EACH_PRECISION = Problem(Small)

PROBLEMS: dict[str, Problem] = {
    "sgd": Problem(partial(Trained, partial(SGD, lr=0.05, momentum=0.9))),
    "adamw": Problem(partial(Trained, partial(AdamW, lr=0.02, weight_decay=0.1))),
    "tied_weights": Problem(Tied),
    "frozen_parameters": Problem(Frozen),
    "batch_norm": Problem(Normalized, validates=True),
    "sync_batchnorm": Problem(
        Normalized, together={"sync_batchnorm": True}, needs=Capability.SYNC_BATCHNORM
    ),
    "uneven_last_batch": Problem(Trained, short_by=2),
    "accumulation": Problem(
        Trained, {"accumulate_grad_batches": 3}, needs=Capability.GRADIENT_ACCUMULATION
    ),
    "clip_by_norm": Problem(Trained, _clipped(0.5, "norm"), needs=Capability.CLIP_BY_NORM),
    "clip_by_value": Problem(Trained, _clipped(0.1, "value"), needs=Capability.CLIP_BY_VALUE),
    "gradients_visible": Problem(Watched, needs=Capability.GRADIENTS_VISIBLE),
}

UNUSED = "unused_parameters"
"""The name of the training that a backend may refuse by an exception of its own, which may end the program."""

UNUSED_AS_ZERO = "unused_as_zero"
"""The same of one process, where nothing is left out of an update."""


class Final(Callback):
    """Keeps the state that training ends with; asked for while ranks are connected."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep it. Collective."""
        found = trainer.strategy.model_state()
        self.state = {name: value.detach().cpu().clone() for name, value in found.items()}


def train(context: Context, names: str, **settings: Any) -> None:
    """Train every problem, and one in each precision; names have blanks between them."""
    in_each_process(context, _train, settings, names.split())


def _train(place: Place, names: list[str]) -> None:
    for name, problem in PROBLEMS.items():
        if problem.needs not in place.lacking:
            place.attempt(name, partial(_fit, place, problem))
    for name in names:
        place.attempt(f"precision-{name}", partial(_fit, place, IN_EACH_PRECISION, precision=name))
    if place.world == 1:
        place.attempt(UNUSED_AS_ZERO, partial(_fit, place, Problem(partial(Sometimes, True))))
    place.attempt(UNUSED, partial(_fit, place, Problem(Sometimes)))


def _fit(place: Place, problem: Problem, **options: Any) -> dict[str, Any]:
    module, final = problem.module(), Final()
    together = problem.together if place.world > 1 else {}
    trainer = place.trainer(callbacks=final, **problem.trainer, **together, **options)
    number = (UPDATES * BATCH - problem.short_by) * place.ranks
    data = samples(number)
    validates = problem.validates and Capability.EVALUATION not in place.lacking
    validation = DataLoader(data, place.batch_size) if validates else None
    trainer.fit(module, DataLoader(data, place.batch_size), validation)
    return {"state": final.state, "updates": trainer.global_step, "notes": module.notes}


def replicas(ranks: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights of `Normalized` trained in as many copies, each with its own statistics and the mean gradient."""
    copies = [Normalized().to(dtype) for _ in range(ranks)]
    optimizers = [copy.configure_optimizers() for copy in copies]
    x, y = (tensor.to(dtype) for tensor in samples(UPDATES * BATCH * ranks).tensors)
    for update in range(UPDATES):
        first = update * BATCH * ranks
        for rank, copy in enumerate(copies):
            mine = slice(first + rank, first + BATCH * ranks, ranks)
            copy.zero_grad()
            copy.loss((x[mine], y[mine])).backward()  # type: ignore[no-untyped-call]
        for same in zip(*(copy.parameters() for copy in copies), strict=True):
            mean = torch.stack([each.grad for each in same]).mean(0)
            for each in same:
                each.grad = mean.clone()
        for optimizer in optimizers:
            optimizer.step()
    return {name: each.detach() for name, each in copies[0].named_parameters()}
