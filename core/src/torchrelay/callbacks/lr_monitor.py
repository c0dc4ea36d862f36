"""LearningRateMonitor: records what the optimizers are set to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class LearningRateMonitor(Callback):
    """Gives the loggers each parameter group's learning rate, under the number of the update that it is for.

    A rate is called `lr-Adam` after its optimizer's class, `lr-Adam-1` for the second of a class, with `/pg1`, `/pg2`
    or the group's own "name" added where there are several groups; a scheduler's "name" replaces all but the group.

    Args:
        logging_interval: "step" every `log_every_n_steps` updates, "epoch" at the beginning of each epoch, None as
            often as the scheduler steps ("epoch" where there is none).
        log_momentum: also the momentum, or the first of `betas`, as `lr-Adam-momentum`.
        log_weight_decay: also the weight decay, as `lr-Adam-weight_decay`.

    Attributes:
        lrs: the learning rates recorded in the latest fit, by name, on every rank.
        last_momentum_values: the momentum recorded last, by name.
        last_weight_decay_values: the weight decay recorded last, by name.
    """

    @answering
    def __init__(
        self,
        logging_interval: str | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        if logging_interval not in (None, "step", "epoch"):
            raise ConfigurationError(
                f"LearningRateMonitor(logging_interval={logging_interval!r}): must be 'step', 'epoch' or None"
            )
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay
        self.lrs: dict[str, list[float]] = {}
        self.last_momentum_values: dict[str, float] = {}
        self.last_weight_decay_values: dict[str, float] = {}
        self._named: list[tuple[str, str, torch.optim.Optimizer]] = []
        self._logged_at = -1

    def __getstate__(self) -> dict[str, Any]:
        """Leave the optimizers behind; each process has its own."""
        return {**self.__dict__, "_named": []}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find names for the optimizers.

        Raises:
            ConfigurationError: the Trainer has no logger.
        """
        if not trainer.loggers and not trainer.options.fast_dev_run:
            raise ConfigurationError(
                "LearningRateMonitor has no logger to give learning rates to; pass "
                "Trainer(logger=CSVLogger(...)), or leave the callback out"
            )
        self._named = list(_names(trainer))
        self._logged_at = -1
        self.lrs, self.last_momentum_values, self.last_weight_decay_values = {}, {}, {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what is set for an epoch."""
        self._record(trainer, "epoch", trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record what is set for the next update, if loggers are about to get that one's metrics."""
        update = trainer.global_step + 1
        if update % trainer.options.steps_to_log == 0 and update != self._logged_at:
            self._logged_at = update
            self._record(trainer, "step", update)

    def _record(self, trainer: Trainer, moment: str, step: int) -> None:
        values: dict[str, float] = {}
        for name, interval, optimizer in self._named:
            if (self.logging_interval or interval) == moment:
                values |= self._settings(name, optimizer)
        if values and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=step)

    def _settings(self, name: str, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        values: dict[str, float] = {}
        groups = optimizer.param_groups
        for number, group in enumerate(groups, 1):
            several = len(groups) > 1 or "name" in group
            suffix = f"/{group.get('name', f'pg{number}')}" if several else ""
            rate = values[f"{name}{suffix}"] = float(group["lr"])
            self.lrs.setdefault(f"{name}{suffix}", []).append(rate)
            if self.log_momentum:
                momentum = group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
                key = f"{name}-momentum{suffix}"
                values[key] = self.last_momentum_values[key] = float(momentum)
            if self.log_weight_decay:
                key, decay = f"{name}-weight_decay{suffix}", group.get("weight_decay", 0.0)
                values[key] = self.last_weight_decay_values[key] = float(decay)
        return values


def _names(trainer: Trainer) -> Iterator[tuple[str, str, torch.optim.Optimizer]]:
    """Each optimizer with its name and its scheduler's interval."""
    session = trainer.session
    schedulers = {
        id(getattr(config.scheduler, "optimizer", None)): config
        for config in (session.schedulers if session is not None else [])
    }
    seen: Counter[str] = Counter()
    for optimizer in trainer.optimizers:
        config = schedulers.get(id(optimizer))
        kind = type(optimizer).__name__
        name = f"lr-{kind}" + (f"-{seen[kind]}" if seen[kind] else "")
        seen[kind] += 1
        if config is None:
            yield name, "epoch", optimizer
        else:
            yield config.name or name, config.interval, optimizer
