"""StochasticWeightAveraging: the mean of the weights of the last epochs, at a constant learning rate."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.callbacks.weight_averaging import require_whole_weights
from torchrelay.errors import ConfigurationError
from torchrelay.strategies.schedulers import expect_updates
from torchrelay.strategies.steps import step_of

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer

AverageFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | int], torch.Tensor]

_NEVER = sys.maxsize
"""The frequency of a scheduler that rests."""

_PASS = "batch norm"
"""What metrics of the last pass are recorded under, to be forgotten."""


class StochasticWeightAveraging(Callback):
    """Averages the weights at the end of each of the last epochs, and leaves the average in the module after fit.

    The recipe of `torch.optim.swa_utils` (Izmailov and others, 2018): from an epoch on the module's own scheduler
    rests, the learning rate anneals to `swa_lrs`, and the weights at each epoch's end are taken into the average.
    After the last epoch one more pass over the training data, by `training_step` without gradients, makes the
    statistics of batch norm anew, if there is any. Validation sees the weights that are trained. Each rank averages for
    itself, so every rank must hold all weights.

    Args:
        swa_lrs: the learning rate to anneal to, or one for each parameter group.
        swa_epoch_start: the epoch to begin with, from 1, or the part of `max_epochs` before it.
        annealing_epochs: epochs until `swa_lrs` is reached.
        annealing_strategy: "cos" or "linear".
        avg_fn: makes the new average of the average, the weights, and the number of those averaged; their mean
            when None.
        device: where to keep the average; with the module when None.

    Attributes:
        n_averaged: the number of epochs whose weights are in the average.
    """

    @answering
    def __init__(
        self,
        swa_lrs: float | Sequence[float],
        swa_epoch_start: int | float = 0.8,
        annealing_epochs: int = 10,
        annealing_strategy: str = "cos",
        avg_fn: AverageFunction | None = None,
        device: torch.device | str | None = "cpu",
    ) -> None:
        self.swa_lrs = swa_lrs
        self.swa_epoch_start = swa_epoch_start
        self.annealing_epochs = annealing_epochs
        self.annealing_strategy = annealing_strategy
        self.avg_fn = avg_fn
        self._check()
        self.device = None if device is None else torch.device(device)
        self.n_averaged = 0
        self._begin_at = 0
        self._latest = 0
        self._average: AveragedModel | None = None
        self._annealer: SWALR | None = None
        self._resumed: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the average behind; a checkpoint holds it."""
        return {**self.__dict__, "_average": None, "_annealer": None, "_resumed": None}

    def _check(self) -> None:
        given: Any = self.swa_lrs
        rates = given if isinstance(given, (list, tuple)) else [given]
        if not rates or not all(_is_number(rate) and rate > 0 for rate in rates):
            self._refuse("swa_lrs", "must be a number above 0, or a list of them")
        start: Any = self.swa_epoch_start
        if not _is_number(start) or not (
            0 <= start <= 1 if isinstance(start, float) else start >= 1
        ):
            self._refuse(
                "swa_epoch_start", "must be an epoch from 1, or a fraction from 0.0 to 1.0"
            )
        epochs: Any = self.annealing_epochs
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
            self._refuse("annealing_epochs", "must be a whole number from 0")
        if self.annealing_strategy not in ("cos", "linear"):
            self._refuse("annealing_strategy", "must be 'cos' or 'linear'")
        if self.avg_fn is not None and not callable(self.avg_fn):
            self._refuse("avg_fn", "must be a function")

    def _refuse(self, name: str, reason: str) -> NoReturn:
        raise ConfigurationError(
            f"StochasticWeightAveraging({name}={getattr(self, name)!r}): {reason}"
        )

    # --- the run ----------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run's average."""
        self._average = self._annealer = self._resumed = None
        self.n_averaged = self._latest = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the epoch to begin with.

        Raises:
            ConfigurationError: it is not known, a rank does not hold all weights, or there is not one optimizer with
                at most one scheduler that the Trainer steps.
        """
        require_whole_weights(type(self).__name__, trainer, pl_module)
        optimizers, schedulers = trainer.optimizers, trainer.lr_scheduler_configs
        if len(optimizers) != 1 or len(schedulers) > 1 or not pl_module.automatic_optimization:
            raise ConfigurationError(
                "StochasticWeightAveraging needs automatic optimization with one optimizer and at most one scheduler, "
                f"and configure_optimizers of {type(pl_module).__name__} returned {len(optimizers)} and "
                f"{len(schedulers)}, with automatic_optimization = {pl_module.automatic_optimization}; leave the "
                "callback out, or average with WeightAveraging"
            )
        groups = len(optimizers[0].param_groups)
        if isinstance(self.swa_lrs, (list, tuple)) and len(self.swa_lrs) != groups:
            self._refuse(
                "swa_lrs", f"must be one number, or {groups}, one for each parameter group"
            )
        last = trainer.options.last_epoch
        if isinstance(self.swa_epoch_start, float):
            if last == math.inf:
                self._refuse("swa_epoch_start", "a fraction needs Trainer(max_epochs=...)")
            self._begin_at = max(int(last * self.swa_epoch_start) - 1, 0)
        else:
            self._begin_at = self.swa_epoch_start - 1
        self._resume(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the weights of the epoch before, and set the learning rate."""
        self._take_in(trainer, pl_module)
        if trainer.current_epoch < self._begin_at:
            return
        if self._annealer is None:
            self._annealer = self._anneal(trainer, None)
        while self._annealer.last_epoch < trainer.current_epoch - self._begin_at:
            self._annealer.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the weights of the last epoch, and leave the average in the module."""
        self._take_in(trainer, pl_module)
        if self._average is None:
            return
        with torch.no_grad():
            averages = self._average.module.parameters()
            for average, weight in zip(averages, pl_module.parameters(), strict=True):
                weight.copy_(average)
        self._average = None
        renew_batch_norm(trainer, pl_module)

    def _take_in(self, trainer: Trainer, module: LightningModule) -> None:
        """Take in the weights if an epoch has been completed since the last time, and is one of the last."""
        completed = trainer.current_epoch
        if trainer.progress.batch or completed <= max(self._begin_at, self._latest):
            return
        if self._average is None:
            self._average = self._make_average(module)
        self._average.update_parameters(module)
        self.n_averaged += 1
        self._latest = completed

    def _make_average(self, module: LightningModule) -> AveragedModel:
        return AveragedModel(module, device=self.device, avg_fn=self.avg_fn)

    def _anneal(self, trainer: Trainer, state: dict[str, Any] | None) -> SWALR:
        """Steer the learning rate, in the place of the module's scheduler."""
        for config in trainer.lr_scheduler_configs:
            config.frequency = _NEVER
        rates: Any = self.swa_lrs
        made = SWALR(
            trainer.optimizers[0],
            rates,
            self.annealing_epochs,
            self.annealing_strategy,  # type: ignore[arg-type]
        )
        expect_updates([made])
        if state is not None:
            made.load_state_dict(state)
        return made

    # --- checkpoints ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The average, and where the learning rate is; nothing before the first epoch that counts."""
        if self._annealer is None:
            return {}
        average = None if self._average is None else self._average.module.state_dict()
        annealing = self._annealer.state_dict()
        return {
            "n_averaged": self.n_averaged,
            "latest_update_epoch": self._latest,
            # older versions of torch keep the function itself there
            "scheduler_state": {k: v for k, v in annealing.items() if not callable(v)},
            "average_model_state": average and {k: v.cpu().clone() for k, v in average.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Note what to go on from."""
        self._resumed = state_dict

    def _resume(self, trainer: Trainer, module: LightningModule) -> None:
        state, self._resumed = self._resumed, None
        if state is None:
            return
        self.n_averaged = int(state["n_averaged"])
        self._latest = int(state["latest_update_epoch"])
        self._annealer = self._anneal(trainer, state["scheduler_state"])
        if state["average_model_state"] is not None:
            self._average = self._make_average(module)
            self._average.module.load_state_dict(state["average_model_state"])
            self._average.n_averaged.fill_(self.n_averaged)


class _Step(nn.Module):
    """`training_step` as a model of one argument, a batch."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        super().__init__()
        self.module = module
        self._step = trainer.strategy.precision_plugin.wrap_step(step_of(module, "training_step"))
        self._index = -1

    def forward(self, batch: Any) -> None:
        self._index += 1
        self._step(batch, self._index)


def renew_batch_norm(trainer: Trainer, module: LightningModule) -> None:
    """Compute the statistics of batch norm anew, in a pass over the training data; the mean over ranks. Collective."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    session = trainer.session
    if not norms or session is None:
        return
    with session.entering(_PASS) as metrics:
        session.stage, metrics.in_step = "train", True  # to training_step, it is training
        update_bn(_batches(trainer, metrics), _Step(trainer, module))
    session.evaluation_metrics.pop(_PASS)
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(trainer.strategy.collectives.reduce(statistic, "mean"))


def _batches(trainer: Trainer, metrics: Any) -> Iterator[tuple[Any]]:
    """The training batches on the device, each in a tuple: `update_bn` takes the first part of what it is given."""
    session = trainer.session
    move = None if session is None else session.mover()
    for batch in trainer.train_dataloader:
        moved = batch if move is None else move(batch)
        metrics.batch = moved
        yield (moved,)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
