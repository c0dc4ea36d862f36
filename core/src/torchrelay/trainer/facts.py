"""What a Trainer tells of its run: everything that callbacks, modules and scripts may read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from torchrelay.callbacks.callback import Checkpointer
from torchrelay.datamodule import LightningDataModule
from torchrelay.errors import ConfigurationError
from torchrelay.module import LightningModule
from torchrelay.trainer.data_facts import DataFacts
from torchrelay.trainer.hooks import Hooks, is_kind
from torchrelay.trainer.metrics import Metrics
from torchrelay.trainer.options import Options
from torchrelay.trainer.place_facts import PlaceFacts
from torchrelay.trainer.progress import Progress

if TYPE_CHECKING:
    from torchrelay.strategies.strategy import Strategy
    from torchrelay.trainer.session import Session


class RunState(NamedTuple):
    """What a Trainer is doing; equal to the values of Lightning's enums.

    Attributes:
        fn: "fit", "validate", "test" or "predict": what runs, or ran last; None before the first.
        stage: "train", "sanity_check", "validate", "test" or "predict"; None if nothing is under way.
    """

    fn: str | None
    stage: str | None


def _option(name: str, meaning: str) -> Any:
    """A property that reads one field of the options."""

    def read(self: Facts) -> Any:
        return getattr(self.options, name)

    return property(read, doc=meaning)


class Facts(PlaceFacts, DataFacts):
    """The read-only side of a Trainer.

    Attributes:
        callbacks: in the order in which they are called.
        default_root_dir: where checkpoints and logs go by default.
        logged_metrics: what loggers received last.
        loggers: where metrics are recorded.
        options: what was asked for, checked.
        progress: how far the run has come.
        received_metrics: the metrics of a run that took place in other processes.
        session: the run in this process, or the last one; None before the first.
        should_stop: set it, on every rank, to end training at the next update.
        strategy: what runs the module.
    """

    callbacks: list[Any]
    default_root_dir: str
    logged_metrics: dict[str, torch.Tensor]
    loggers: list[Any]
    options: Options
    progress: Progress
    received_metrics: dict[str, Any]
    session: Session | None
    should_stop: bool
    strategy: Strategy

    # --- how far ----------------------------------------------------------------------------------------

    @property
    def current_epoch(self) -> int:
        """Epochs completed."""
        return self.progress.epoch

    @property
    def global_step(self) -> int:
        """Weight updates made."""
        return self.progress.global_step

    @property
    def is_last_batch(self) -> bool:
        """Whether the training batch under way is the last of its epoch, as far as that is known."""
        return self.progress.batch + 1 == self.num_training_batches

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Weight updates that the whole of fit will make; infinite if nothing ends it.

        Known from `configure_optimizers` on, where a learning-rate schedule needs it.

        Raises:
            ConfigurationError: nothing is being fitted.
        """
        session = self._running("estimated_stepping_batches")
        epochs, steps = self.options.last_epoch, self.options.last_step
        if any(is_kind(callback, "GradientAccumulationScheduler") for callback in self.callbacks):
            raise ConfigurationError(
                "estimated_stepping_batches cannot be told where a GradientAccumulationScheduler changes how many "
                "batches make an update; count them in the module instead"
            )
        number = session.loaders.expected_training_batches()
        if epochs == math.inf or number == math.inf:
            return steps if steps == math.inf else int(steps)
        updates = math.ceil(number / session.plan.accumulate) * session.plan.updates
        return int(min(updates * epochs, steps))

    # --- what was asked for -----------------------------------------------------------------------------

    max_epochs: int | None = _option("max_epochs", "Epochs after which fit stops.")
    min_epochs: int | None = _option("min_epochs", "Epochs before which nobody may stop the run.")
    max_steps: int = _option("max_steps", "Weight updates after which fit stops; -1 for no limit.")
    min_steps: int | None = _option("min_steps", "Updates before which nobody may stop the run.")
    fast_dev_run: int | bool = _option("fast_dev_run", "Whether loaders are only tried.")
    barebones: bool = _option("barebones", "Whether everything but the loops is left out.")
    overfit_batches: int | float = _option("overfit_batches", "Batches to overfit on.")
    limit_train_batches: Any = _option("limit_train_batches", "Limit on the batches of training.")
    limit_val_batches: Any = _option("limit_val_batches", "Limit on the batches of validation.")
    limit_test_batches: Any = _option("limit_test_batches", "Limit on the batches of the test.")
    limit_predict_batches: Any = _option("limit_predict_batches", "Limit on those of prediction.")
    check_val_every_n_epoch: int | None = _option(
        "check_val_every_n_epoch", "Epochs from one validation to the next."
    )
    val_check_interval: int | float = _option(
        "validation_interval", "Batches, or part of an epoch, from one validation to the next."
    )
    num_sanity_val_steps: int = _option("sanity_steps", "Validation batches to try first.")
    log_every_n_steps: float = _option("steps_to_log", "Updates between two rows of a logger.")
    reload_dataloaders_every_n_epochs: int = _option(
        "reload_dataloaders_every_n_epochs",
        "Epochs after which loaders are made anew; 0 for never.",
    )
    gradient_clip_val: float | None = _option("gradient_clip_val", "Limit for clipping.")
    gradient_clip_algorithm: str | None = _option("gradient_clip_algorithm", "norm or value.")

    # --- what it is doing -------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """What was asked for, and the pass over data that is under way, by Lightning's names."""
        fn = None if self.session is None else self.session.job.stage
        return RunState(fn, "sanity_check" if self.sanity_checking else self.stage)

    @property
    def stage(self) -> str | None:
        """The pass over data that is under way: "train", "validate", "test" or "predict"; None if none is."""
        return None if self.session is None else self.session.stage

    @property
    def training(self) -> bool:
        """Whether training is under way, not the validation within it."""
        return self.stage == "train"

    @property
    def validating(self) -> bool:
        """Whether validation is under way."""
        return self.stage == "validate"

    @property
    def testing(self) -> bool:
        """Whether the test is under way."""
        return self.stage == "test"

    @property
    def predicting(self) -> bool:
        """Whether prediction is under way."""
        return self.stage == "predict"

    @property
    def evaluating(self) -> bool:
        """Whether validation or the test is under way."""
        return self.validating or self.testing

    @property
    def sanity_checking(self) -> bool:
        """Whether validation is being tried before training."""
        return self.session is not None and self.session.sanity_checking

    # --- its parts --------------------------------------------------------------------------------------

    @property
    def lightning_module(self) -> LightningModule:
        """The module of the run.

        Raises:
            ConfigurationError: nothing is running.
        """
        return self._running("lightning_module").module

    @property
    def model(self) -> Any:
        """The module as the strategy runs it, wrapped or not; None if nothing is running."""
        return None if self.session is None else self.strategy.model

    @property
    def datamodule(self) -> LightningDataModule | None:
        """The data module of the run, or None."""
        return None if self.session is None else self.session.job.datamodule

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers of the run."""
        return self.strategy.optimizers

    @property
    def lr_scheduler_configs(self) -> list[Any]:
        """The learning-rate schedulers of the run, each with when it steps."""
        return [] if self.session is None else self.session.schedulers

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint that the run began from, or None."""
        return None if self.session is None else self.session.job.ckpt_path

    @property
    def logger(self) -> Any:
        """The first logger, or None."""
        return self.loggers[0] if self.loggers else None

    @property
    def log_dir(self) -> str:
        """The first logger's folder, or where logs go by default. The same on every rank."""
        for name in ("log_dir", "save_dir"):
            found = getattr(self.logger, name, None)
            if found:
                return str(found)
        return self.default_root_dir

    @property
    def checkpointers(self) -> list[Checkpointer]:
        """The callbacks that write checkpoints when they are told that a run can be resumed."""
        return [callback for callback in self.callbacks if isinstance(callback, Checkpointer)]

    @property
    def checkpoint_callbacks(self) -> list[Any]:
        """The callbacks that write checkpoints, Lightning's too."""
        return [each for each in self.callbacks if is_kind(each, "Checkpointer", "Checkpoint")]

    @property
    def checkpoint_callback(self) -> Any:
        """The first callback that writes checkpoints, or None."""
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[Any]:
        """The callbacks that end a run which does not get better."""
        return [each for each in self.callbacks if is_kind(each, "EarlyStopping")]

    @property
    def early_stopping_callback(self) -> Any:
        """The first of them, or None."""
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def progress_bar_callback(self) -> Any:
        """The progress bar, or None."""
        return next((each for each in self.callbacks if is_kind(each, "ProgressBar")), None)

    # --- its metrics ------------------------------------------------------------------------------------

    @property
    def metrics(self) -> Metrics:
        """What `self.log` records into at present."""
        return self._running("log").metrics

    @property
    def hooks(self) -> Hooks:
        """Who listens to which moment of the run."""
        return self._running("hooks").hooks

    @property
    def callback_metrics(self) -> dict[str, torch.Tensor]:
        """Every metric of the run, by name, as 0-dim tensors."""
        return {**self.received_metrics, **(self.session.values() if self.session else {})}

    @property
    def progress_bar_metrics(self) -> dict[str, Any]:
        """The metrics that were logged with `prog_bar=True`."""
        if self.session is None:
            return {}
        found = self.session.train_metrics.progress_bar_values()
        for metrics in self.session.evaluation_metrics.values():
            found |= metrics.progress_bar_values()
        return found

    def _running(self, what: str) -> Session:
        if self.session is None:
            raise ConfigurationError(
                f"{what}: nothing is running; call it in a hook, during fit, validate, test or predict"
            )
        return self.session
