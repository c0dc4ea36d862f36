"""What exists in each process while a run goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.data_hooks import DataHooks
from torchrelay.datamodule import LightningDataModule
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.loggers.logger import Occasion, tell
from torchrelay.module import LightningModule, is_overridden
from torchrelay.plugin.specs import Capability
from torchrelay.precision.mixed import drives_its_closure
from torchrelay.profilers.watching import watched, watched_method
from torchrelay.strategies.plan import Plan
from torchrelay.trainer import optimizers as forms
from torchrelay.trainer.epoch_rng import EpochRNG
from torchrelay.trainer.hooks import Hooks
from torchrelay.trainer.interruption import Interruption
from torchrelay.trainer.loaders import Loaders
from torchrelay.trainer.metrics import Metrics
from torchrelay.trainer.no_metrics import NoMetrics
from torchrelay.trainer.options import Options
from torchrelay.trainer.progress import Progress
from torchrelay.trainer.stages import STAGES
from torchrelay.trainer.transfer import mover
from torchrelay.trainer.watchdog import guarding

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer


@dataclass(frozen=True)
class Job:
    """What a user asked a Trainer to do: the stage, the module, its data, the checkpoint to begin from."""

    stage: str
    module: LightningModule
    loaders: dict[str, Any] = field(default_factory=dict)
    ckpt_path: str | None = None
    weights_only: bool = True
    datamodule: LightningDataModule | None = None
    keeps_predictions: bool = True

    @property
    def data_owner(self) -> DataHooks:
        """Who gives the data that was not passed: the data module, or else the module."""
        return self.module if self.datamodule is None else self.datamodule

    def has_data(self, stage: str) -> bool:
        """Whether there is data for a stage."""
        own = is_overridden(STAGES[stage].loader_method, self.data_owner, DataHooks)
        return self.loaders.get(stage) is not None or own


def make_job(
    stage: str,
    module: LightningModule,
    loaders: Mapping[str, Any],
    datamodule: Any,
    weights_only: bool = True,
) -> Job:
    """A job; a data module in the place of the first loader is taken for what it is.

    Raises:
        ConfigurationError: data is given both ways, or the data module is none.
    """
    given = {name: loader for name, loader in loaders.items() if loader is not None}
    for name, loader in loaders.items():
        if isinstance(loader, LightningDataModule) and datamodule is None:
            datamodule = given.pop(name)
    if datamodule is not None and not isinstance(datamodule, LightningDataModule):
        raise ConfigurationError(
            f"datamodule={datamodule!r} is no torchrelay.LightningDataModule; pass data loaders as dataloaders"
        )
    if datamodule is not None and given:
        in_fit = stage == "fit"
        arguments = " and ".join(STAGES[n].in_fit if in_fit else "dataloaders" for n in given)
        raise ConfigurationError(
            f"{stage} got both {arguments} and datamodule={type(datamodule).__name__}; leave one of them out"
        )
    return Job(stage, module, given, None, weights_only, datamodule)


class Session:
    """A run in this process: the module, its data, who listens, and how far it has come.

    Args:
        trainer: whose options and callbacks hold.
        job: what to do.
    """

    def __init__(self, trainer: Trainer, job: Job) -> None:
        self.trainer = trainer
        self.job = job
        self.module = job.module
        self.strategy = trainer.strategy
        self.progress: Progress = trainer.progress
        self.watcher = trainer.watcher
        self.hooks = Hooks(trainer, job.module, trainer.callbacks, self.watcher)
        self.stage: str | None = None
        self.loaders = Loaders(self)
        self.metrics = self._new_metrics("train" if job.stage == "fit" else job.stage)
        self.train_metrics = self.metrics
        self.evaluation_metrics: dict[str, Metrics] = {}
        self.asked = self.options.plan
        self.plan: Plan = self.strategy.negotiate(self.asked)
        self.combined = self.plan.combines(self.asked)
        self.schedulers: list[forms.SchedulerConfig] = []
        self.sanity_checking = False
        self.validates = False
        self.batch_indices: list[int] | None = None
        self.connected = False
        self.resumed: Mapping[str, Any] = {}
        self.epoch_batches: int | None = None
        self.epoch_rng = EpochRNG(self.loaders.generators)
        self.interruption = Interruption(self)
        self.place: Any = None
        self.mid_window: Callable[[], bool] = lambda: False
        self.validated_at = self.followed_at = -1
        self._told_of_open_window = False

    @property
    def options(self) -> Options:
        """What the Trainer was asked for, and callbacks may have changed."""
        return self.trainer.options

    def renew_plan(self) -> Plan:
        """The plan of an epoch, for which a callback may have asked for other windows.

        Raises:
            UnsupportedError: the strategy accumulates by itself, in windows that cannot change.
        """
        asked = self.options.plan
        if asked != self.asked:
            name = f"accumulate_grad_batches={asked.accumulate}"
            self.strategy.require(Capability.GRADIENT_ACCUMULATION, name)
            self._refuse_closures_over_windows(self.strategy.optimizers)
            if self.plan.accumulate != self.asked.accumulate:
                raise UnsupportedError(
                    f"{name} from epoch {self.progress.epoch} on: {type(self.strategy).__name__} accumulates by "
                    "itself, in windows that do not change; leave out GradientAccumulationScheduler and give "
                    "accumulate_grad_batches to the Trainer"
                )
            self.asked = asked
            self.plan = replace(
                self.plan, accumulate=asked.accumulate, loss_divisor=asked.loss_divisor
            )
        return self.plan

    def _new_metrics(self, stage: str) -> Metrics:
        kind = NoMetrics if self.options.barebones else Metrics
        return kind(stage, self._collectives, self.module)

    def _collectives(self) -> Any:
        return self.strategy.collectives

    def build(self, module: nn.Module) -> tuple[list[Optimizer], list[Any]]:
        """Build optimizers and schedulers, for `Strategy.setup`."""
        built, self.schedulers = forms.parse(self.module.configure_optimizers())
        self._refuse_for_strategy()
        if self.module.automatic_optimization and len(built) > 1:
            raise ConfigurationError(
                f"configure_optimizers returned {len(built)} optimizers; which steps when is for training_step to say: "
                "set automatic_optimization = False in the module"
            )
        self._refuse_closures_over_windows(built)
        return built, [config.scheduler for config in self.schedulers]

    def _refuse_for_strategy(self) -> None:
        """Refuse listeners and limits that do not go with how the strategy updates."""
        for name in ("on_after_backward", "on_before_optimizer_step"):
            if self.hooks.get(name) is not None:
                self.strategy.require(Capability.GRADIENTS_VISIBLE, name)
        if self.own("configure_gradient_clipping") is not None:
            self._refuse_own_clipping()
        steps, updates = self.options.max_steps, self.plan.updates
        if steps > 0 and steps % updates:
            raise ConfigurationError(
                f"max_steps={steps} is no multiple of the {updates} updates that {type(self.strategy).__name__} makes "
                f"at a time; take max_steps={steps + -steps % updates}"
            )

    def _refuse_own_clipping(self) -> None:
        name = f"{type(self.module).__name__}.configure_gradient_clipping"
        self.strategy.require(Capability.GRADIENTS_VISIBLE, name)
        if self.options.plan.clip is not None and self.plan.clip is None:
            raise ConfigurationError(
                f"gradient_clip_val={self.options.gradient_clip_val} is what {type(self.strategy).__name__} clips by "
                f"itself, and {name} would clip again; leave one of them out"
            )

    def _refuse_closures_over_windows(self, optimizers: list[Optimizer]) -> None:
        """Refuse an optimizer that evaluates the loss again and again when only a window's last batch is at hand."""
        n = self.options.accumulate_grad_batches
        for optimizer in optimizers:
            if n > 1 and drives_its_closure(type(optimizer).step):
                raise ConfigurationError(
                    f"accumulate_grad_batches={n} with {type(optimizer).__name__}, which evaluates the loss several "
                    "times an update, when all but the last of the batches are gone; take larger batches and "
                    "accumulate_grad_batches=1, or another optimizer"
                )

    def mover(self, dataloader_idx: int = 0) -> Callable[[Any], Any] | None:
        """The function that moves a loader's batch to the device; None where nothing is to be done."""
        move = mover(
            self.strategy,
            dataloader_idx,
            self.data_hook("on_before_batch_transfer"),
            self.data_hook("transfer_batch_to_device"),
            self.data_hook("on_after_batch_transfer"),
        )
        return None if move is None else watched(self.watcher, "batch_to_device", move)

    def data_hook(self, name: str) -> Callable[..., Any] | None:
        """A hook of the data module, or else of the module; None if neither overrides it."""
        for owner in (self.job.datamodule, self.module):
            if owner is not None and is_overridden(name, owner, DataHooks):
                kind = "LightningModule" if owner is self.module else "LightningDataModule"
                return watched_method(self.watcher, kind, owner, name)
        return None

    def own(self, name: str) -> Callable[..., Any] | None:
        """A method of the module; None if it is `LightningModule`'s."""
        if not is_overridden(name, self.module, LightningModule):
            return None
        return watched_method(self.watcher, "LightningModule", self.module, name)

    @contextmanager
    def connection(self) -> Iterator[None]:
        """The connection to the other ranks: the run's, or after the run one of its own. Collective."""
        if self.connected:
            yield
            return
        self.strategy.setup_environment()
        self.module.trainer = self.trainer
        try:
            with guarding(self.trainer.hang_timeout, self.strategy):
                yield
        finally:
            self.module.trainer = None
            self.strategy.collectives.close()

    @contextmanager
    def entering(self, stage: str) -> Iterator[Metrics]:
        """Let `self.log` record for a stage, which may run inside another."""
        outer, outer_stage = self.metrics, self.stage
        self.stage = stage
        if stage != "train":
            fresh = self._new_metrics(stage)
            self.metrics = self.evaluation_metrics.setdefault(stage, fresh)
        try:
            yield self.metrics
        finally:
            self.metrics, self.stage = outer, outer_stage

    def metric_states(self) -> dict[str, Any] | None:
        """What is known of the metrics on this rank, as tensors and plain data; None if they are not recorded."""
        if self.options.barebones:
            return None
        validation = self.evaluation_metrics.get("validate")
        return {
            "train": self.train_metrics.state_dict(),
            "validate": validation.state_dict() if validation is not None else {},
        }

    def load_metric_states(self, states: Mapping[str, Any] | None) -> None:
        """Go on with metrics that were known when a checkpoint was made."""
        if states is None or self.options.barebones:
            return
        device = self.strategy.root_device
        self.train_metrics.load_state_dict(states["train"], device)
        if states["validate"]:
            metrics = self.evaluation_metrics["validate"] = self._new_metrics("validate")
            metrics.load_state_dict(states["validate"], device)

    def send_step_metrics(self) -> None:
        """Give loggers the latest values of the metrics that are kept by step. Collective."""
        values = self.train_metrics.step_values(for_logger=True, reduce=True)
        self._send(values)

    def send_epoch_metrics(self, metrics: Metrics) -> None:
        """Give loggers the values of the epoch that was closed."""
        self._send(metrics.epoch_values(for_logger=True))

    def _send(self, values: dict[str, Any]) -> None:
        if not values or self.sanity_checking:
            return
        numbers = {name: float(value) for name, value in values.items()}
        self.trainer.logged_metrics |= {n: torch.tensor(value) for n, value in numbers.items()}
        if self.strategy.is_global_zero:
            for logger in self.trainer.loggers:
                logger.log_metrics(
                    {**numbers, "epoch": self.progress.epoch}, step=self.progress.global_step
                )

    def tell_loggers(self, occasion: Occasion, *args: Any) -> None:
        """Call a method of those loggers that have it, on rank 0."""
        if self.strategy.is_global_zero:
            tell(self.trainer.loggers, occasion, *args)

    def offer_checkpoint(self, reason: str) -> None:
        """Tell checkpointers that the run can be resumed from here; see `Checkpointer`."""
        if self.options.fast_dev_run:
            return
        for callback in self.trainer.checkpointers:
            callback.on_resumable_point(self.trainer, self.module, reason)

    def tell_of_open_window(self) -> None:
        """Warn, once, of a checkpoint that cannot be resumed exactly, for it has no gradients."""
        if self.mid_window() and self.strategy.is_global_zero and not self._told_of_open_window:
            self._told_of_open_window = True
            warnings.warn(
                f"the checkpoint was saved between two updates, after batch {self.progress.batch} of windows of "
                f"{self.plan.accumulate} (accumulate_grad_batches); the gradients so far are not in it, so a resumed "
                "run will differ; save where trainer.global_step has changed, as ModelCheckpoint does",
                stacklevel=2,
            )

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every rank. Collective."""
        return self.strategy.collectives.broadcast(value)

    def values(self) -> dict[str, Any]:
        """Every metric of the run so far, by name."""
        found = dict(self.train_metrics.values())
        for metrics in self.evaluation_metrics.values():
            found |= metrics.values()
        return found
