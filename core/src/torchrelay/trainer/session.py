"""What exists in each process while a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from torchrelay.errors import ConfigurationError
from torchrelay.module import LightningModule, is_overridden
from torchrelay.plugin.specs import Capability
from torchrelay.precision.mixed import drives_its_closure
from torchrelay.strategies.plan import Plan
from torchrelay.strategies.strategy import Strategy
from torchrelay.trainer import optimizers as forms
from torchrelay.trainer.data import Portion, length, shard
from torchrelay.trainer.hooks import Hooks
from torchrelay.trainer.metrics import Metrics
from torchrelay.trainer.progress import Progress
from torchrelay.trainer.snapshot import EpochRNG

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer

LOADER_METHODS = {
    "train": "train_dataloader",
    "validate": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}


@dataclass(frozen=True)
class Job:
    """What a user asked a Trainer to do: the stage, the module, the data by stage, the checkpoint to begin from."""

    stage: str
    module: LightningModule
    loaders: dict[str, Any] = field(default_factory=dict)
    ckpt_path: str | None = None
    weights_only: bool = True


def no_data(stage: str, module: nn.Module, data: str) -> ConfigurationError:
    """The error for a stage that has nothing to read."""
    return ConfigurationError(
        f"{stage} has no data: pass a data loader, or define {LOADER_METHODS[data]}() in {type(module).__name__}"
    )


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
        self.options = trainer.options
        self.progress: Progress = trainer.progress
        self.hooks = Hooks(trainer, job.module, trainer.callbacks)
        self.metrics = Metrics(job.stage if job.stage != "fit" else "train", self._collectives)
        self.train_metrics = self.metrics
        self.evaluation_metrics: dict[str, Metrics] = {}
        self.plan: Plan = self.strategy.negotiate(self.options.plan)
        self.combined = self.plan.combines(self.options.plan)
        self.schedulers: list[forms.SchedulerConfig] = []
        self.sanity_checking = False
        self.connected = False
        self.resumed: Mapping[str, Any] = {}
        self.epoch_batches: int | None = None
        self.epoch_rng = EpochRNG()

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
        steps, updates = self.options.max_steps, self.plan.updates
        if steps > 0 and steps % updates:
            raise ConfigurationError(
                f"max_steps={steps} is no multiple of the {updates} updates that {type(self.strategy).__name__} makes "
                f"at a time; take max_steps={steps + -steps % updates}"
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

    def loader(self, stage: str) -> Any:
        """The user's data for a stage: given to the Trainer, or by the module; None if there is none."""
        loader = self.job.loaders.get(stage)
        if loader is None:
            method = getattr(self.module, LOADER_METHODS[stage], None)
            loader = method() if callable(method) else None
        if isinstance(loader, (list, tuple)) and any(
            isinstance(each, DataLoader) for each in loader
        ):
            raise ConfigurationError(
                f"{stage} got {len(loader)} data loaders, and reads one; call {self.job.stage} once for each, or "
                "combine their data sets with torch.utils.data.ConcatDataset"
            )
        return loader

    def portion(self, stage: str) -> Portion | None:
        """This rank's batches of a stage; None if there is no data for it."""
        loader = self.loader(stage)
        if loader is None:
            return None
        training = stage == "train"
        if self.options.use_distributed_sampler:
            uneven = self.trainer.allows_uneven_evaluation
            loader = shard(
                loader,
                self.strategy.sampler_arguments,
                training=training,
                pad=training or not uneven,
                seed=self.trainer.data_seed,
            )
        if length(loader) is None:
            self.strategy.require(Capability.ITERABLE_DATASETS, f"the data of {stage}")
        name = {"validate": "val"}.get(stage, stage)
        return Portion(
            loader,
            self.options.limit(stage),
            f"limit_{name}_batches",
            lambda limited: self.strategy.process_dataloader(limited, stage),
        )

    def require_portion(self, stage: str) -> Portion:
        """This rank's batches of a stage that cannot do without.

        Raises:
            ConfigurationError: there is no data for it.
        """
        portion = self.portion(stage)
        if portion is None:
            raise no_data(self.job.stage, self.module, stage)
        return portion

    def mover(self) -> Callable[[Any], Any] | None:
        """The function that moves a batch to the device; None where batches are there already."""
        strategy = self.strategy
        own = is_overridden("batch_to_device", strategy, Strategy)
        elsewhere = strategy.root_device.type != "cpu"
        if own or elsewhere or strategy.precision_plugin.converts_batches:
            return strategy.batch_to_device
        return None

    @contextmanager
    def connection(self) -> Iterator[None]:
        """The connection to the other ranks: the run's, or after the run one of its own. Collective."""
        if self.connected:
            yield
            return
        self.strategy.setup_environment()
        try:
            yield
        finally:
            self.strategy.collectives.close()

    @contextmanager
    def recording(self, stage: str) -> Iterator[Metrics]:
        """Let `self.log` record for a stage that runs inside another."""
        outer = self.metrics
        self.metrics = self.evaluation_metrics.setdefault(stage, Metrics(stage, self._collectives))
        try:
            yield self.metrics
        finally:
            self.metrics = outer

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
        self.trainer.logged_metrics.update(numbers)
        if self.strategy.is_global_zero:
            for logger in self.trainer.loggers:
                logger.log_metrics(
                    {**numbers, "epoch": self.progress.epoch}, step=self.progress.global_step
                )

    def offer_checkpoint(self, reason: str) -> None:
        """Tell checkpointers that the run can be resumed from here; see `Checkpointer`."""
        if self.options.fast_dev_run:
            return
        for callback in self.trainer.checkpointers:
            callback.on_resumable_point(self.trainer, self.module, reason)

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every rank. Collective."""
        return self.strategy.collectives.broadcast(value)

    def values(self) -> dict[str, Any]:
        """Every metric of the run so far, by name."""
        found = dict(self.train_metrics.values())
        for metrics in self.evaluation_metrics.values():
            found |= metrics.values()
        return found
