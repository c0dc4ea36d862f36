"""Trainer: the facade. It checks and keeps what the user asked for; the work is done in the modules beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from torchrelay.accelerators.accelerator import Accelerator
from torchrelay.callbacks.callback import Callback, Checkpointer
from torchrelay.callbacks.model_checkpoint import ModelCheckpoint
from torchrelay.callbacks.progress_bar import ProgressBar
from torchrelay.datamodule import LightningDataModule
from torchrelay.errors import ConfigurationError, show_user_errors_as_one_line
from torchrelay.launchers.supervision import guard_worker
from torchrelay.module import LightningModule
from torchrelay.plugin.specs import Capability, Support
from torchrelay.seed import current_seed
from torchrelay.strategies.strategy import Strategy
from torchrelay.trainer import snapshot
from torchrelay.trainer.build import assemble
from torchrelay.trainer.data import Limit
from torchrelay.trainer.metrics import Metrics
from torchrelay.trainer.options import from_arguments
from torchrelay.trainer.progress import Progress
from torchrelay.trainer.run import execute
from torchrelay.trainer.session import Job, Session, make_job


class Trainer:
    """Fits, validates, tests and predicts with a module, on any strategy.

    Args:
        strategy: alias, `"distribution:alias"`, or an instance; "auto" chooses by devices and nodes.
        accelerator: "auto", "cpu", "gpu", "cuda", "mps", what a plugin names, or an instance.
        devices: a number, "auto", -1 for all, or indices (`[0, 2]`, `"0,2"`).
        num_nodes: number of machines; "auto" takes it from the cluster environment.
        precision: "32-true", "64-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed", what a plugin names,
            or an older spelling (16, 32, 64, "bf16").
        plugins: further components, or names of them: a ClusterEnvironment, a CheckpointIO, a Precision.
        callbacks: a callback or a list of them.
        logger: a logger, a list of them, or None.
        max_epochs: epochs after which to stop; -1 for no limit; 1000 when `max_steps` is not given either.
        min_epochs: epochs before which nobody may stop the run.
        max_steps: weight updates after which to stop; -1 for no limit.
        min_steps: weight updates before which nobody may stop the run.
        limit_train_batches: so many batches an epoch (int), or a fraction of them (float).
        limit_val_batches: the same for validation.
        limit_test_batches: the same for test.
        limit_predict_batches: the same for prediction.
        fast_dev_run: try one batch (or so many) of each loader, without logging or checkpoints.
        check_val_every_n_epoch: validate after every so many epochs.
        num_sanity_val_steps: validation batches to try before training; -1 for all.
        log_every_n_steps: weight updates between two rows of a logger.
        accumulate_grad_batches: micro-batches whose gradients make one update.
        gradient_clip_val: limit for clipping; None for none.
        gradient_clip_algorithm: "norm" (default) or "value".
        use_distributed_sampler: let each rank read its share of the data.
        sync_batchnorm: compute batch norm over all ranks.
        inference_mode: evaluate under `torch.inference_mode` rather than `torch.no_grad`.
        enable_progress_bar: show progress.
        enable_checkpointing: keep checkpoints; adds a ModelCheckpoint unless one is among the callbacks.
        default_root_dir: where checkpoints and logs go; the working directory when None.

    Raises:
        UserError: what is asked for cannot be had; nothing has been started.
    """

    def __init__(
        self,
        *,
        strategy: str | Strategy = "auto",
        accelerator: str | Accelerator = "auto",
        devices: int | str | Sequence[int] = "auto",
        num_nodes: int | str = "auto",
        precision: str | int | None = None,
        plugins: Any = None,
        callbacks: Callback | Sequence[Callback] | None = None,
        logger: Any = None,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int = -1,
        min_steps: int | None = None,
        limit_train_batches: Limit | None = None,
        limit_val_batches: Limit | None = None,
        limit_test_batches: Limit | None = None,
        limit_predict_batches: Limit | None = None,
        fast_dev_run: int | bool = False,
        check_val_every_n_epoch: int = 1,
        num_sanity_val_steps: int = 2,
        log_every_n_steps: int = 50,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        use_distributed_sampler: bool = True,
        sync_batchnorm: bool = False,
        inference_mode: bool = True,
        enable_progress_bar: bool = True,
        enable_checkpointing: bool = True,
        default_root_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        arguments = dict(locals())
        show_user_errors_as_one_line()
        guard_worker()
        self.options = from_arguments(arguments)
        self.default_root_dir = os.fspath(default_root_dir or os.getcwd())
        self.callbacks = _callbacks(
            callbacks, enable_progress_bar, enable_checkpointing and not fast_dev_run
        )
        self.loggers = [] if fast_dev_run else _loggers(logger)
        self.resolution, self.strategy = assemble(arguments, self.options)
        self.progress = Progress()
        self.should_stop = False
        self.session: Session | None = None
        self.received_metrics: dict[str, Any] = {}
        self.logged_metrics: dict[str, float] = {}
        self.num_training_batches: int | None = None
        self.enable_validation = False
        self.driver_optimizers: list[Any] = []

    # --- what it does -----------------------------------------------------------------------------------

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool = True,
    ) -> None:
        """Train a module.

        Args:
            model: the module; it holds the fitted weights afterwards.
            train_dataloaders: batches to train on; the module's `train_dataloader()` when None.
            val_dataloaders: batches to validate on; the module's `val_dataloader()` when None.
            datamodule: gives the data in place of both.
            ckpt_path: checkpoint of a run to go on with.
            weights_only: refuse checkpoints that carry pickled code; False only for files you trust.
        """
        self.should_stop = False
        loaders = {"train": train_dataloaders, "validate": val_dataloaders}
        job = make_job("fit", model, loaders, datamodule, weights_only)
        self._run(job, ckpt_path)

    def validate(
        self,
        model: LightningModule,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        datamodule: LightningDataModule | None = None,
        weights_only: bool = True,
    ) -> list[dict[str, float]]:
        """Evaluate `validation_step`; the combined metrics, one dict a data loader."""
        job = make_job("validate", model, {"validate": dataloaders}, datamodule, weights_only)
        results: list[dict[str, float]] = self._run(job, ckpt_path)
        return results

    def test(
        self,
        model: LightningModule,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        datamodule: LightningDataModule | None = None,
        weights_only: bool = True,
    ) -> list[dict[str, float]]:
        """Evaluate `test_step`; the combined metrics, one dict a data loader."""
        job = make_job("test", model, {"test": dataloaders}, datamodule, weights_only)
        results: list[dict[str, float]] = self._run(job, ckpt_path)
        return results

    def predict(
        self,
        model: LightningModule,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool = True,
    ) -> list[Any]:
        """Run `predict_step`; this rank's predictions, one entry a batch."""
        job = make_job("predict", model, {"predict": dataloaders}, datamodule, weights_only)
        results: list[Any] = self._run(job, ckpt_path)
        return results

    def _run(self, job: Job, ckpt_path: Any) -> Any:
        if not isinstance(ckpt_path, (str, os.PathLike, type(None))):
            raise ConfigurationError(
                f'ckpt_path={ckpt_path!r} must be a path, "best", "last" or None'
            )
        path = None if ckpt_path is None else self._checkpoint_path(os.fspath(ckpt_path))
        return execute(self, replace(job, ckpt_path=path))

    def _checkpoint_path(self, path: str) -> str:
        if path not in ("best", "last"):
            return path
        callback = self.checkpoint_callback
        found = getattr(callback, f"{path}_model_path", "")
        if not found:
            raise ConfigurationError(
                f'ckpt_path="{path}": no such checkpoint has been kept yet; fit with a ModelCheckpoint first'
            )
        return str(found)

    def save_checkpoint(self, filepath: str | os.PathLike[str], weights_only: bool = False) -> None:
        """Write a checkpoint of the run that is under way, or was last. Collective: every rank calls it.

        Args:
            filepath: the file.
            weights_only: keep the model alone.
        """
        if self.session is None:
            raise ConfigurationError(
                "save_checkpoint needs a run in this process, and there is none: call it in a hook, or after fit; "
                "after a strategy that starts processes of its own (ddp_spawn, ddp_fork) these have ended, so keep "
                "a ModelCheckpoint among the callbacks"
            )
        launcher = self.strategy.launcher
        if self.session.connected or launcher is None:
            self._save(os.fspath(filepath), weights_only)
        else:
            launcher.launch(self._save, os.fspath(filepath), weights_only)

    def _save(self, path: str, weights_only: bool) -> None:
        session = self.session
        if session is None:
            raise ConfigurationError("there is no run to save")
        with session.connection():
            checkpoint = snapshot.dump(session, weights_only=weights_only)
            self.strategy.save_checkpoint(checkpoint, path)

    def explain(self) -> str:
        """What was chosen, and why, a line each."""
        return self.resolution.explain()

    # --- what it knows ----------------------------------------------------------------------------------

    @property
    def current_epoch(self) -> int:
        """Epochs completed."""
        return self.progress.epoch

    @property
    def global_step(self) -> int:
        """Weight updates made."""
        return self.progress.global_step

    @property
    def max_epochs(self) -> int | None:
        """Epochs after which fit stops."""
        return self.options.max_epochs

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.strategy.world_size

    @property
    def global_rank(self) -> int:
        """This process's global rank."""
        return self.strategy.global_rank

    @property
    def local_rank(self) -> int:
        """This process's rank on its node."""
        return self.strategy.local_rank

    @property
    def is_global_zero(self) -> bool:
        """Whether this process has global rank 0."""
        return self.strategy.is_global_zero

    @property
    def sanity_checking(self) -> bool:
        """Whether validation is being tried before training."""
        return self.session is not None and self.session.sanity_checking

    @property
    def metrics(self) -> Metrics:
        """What `self.log` records into at present."""
        if self.session is None:
            raise ConfigurationError("nothing is running, so there is nothing to log to")
        return self.session.metrics

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

    @property
    def logger(self) -> Any:
        """The first logger, or None."""
        return self.loggers[0] if self.loggers else None

    @property
    def checkpointers(self) -> list[Checkpointer]:
        """The callbacks that write checkpoints."""
        return [callback for callback in self.callbacks if isinstance(callback, Checkpointer)]

    @property
    def checkpoint_callback(self) -> Checkpointer | None:
        """The first callback that writes checkpoints, or None."""
        return next(iter(self.checkpointers), None)

    @property
    def datamodule(self) -> LightningDataModule | None:
        """The data module of the run, or None."""
        return None if self.session is None else self.session.job.datamodule

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers of the run."""
        return self.strategy.optimizers

    @property
    def allows_uneven_evaluation(self) -> bool:
        """Whether ranks may evaluate different numbers of batches, so that no sample is counted twice."""
        declared = self.strategy.capabilities[Capability.UNEVEN_EVALUATION]
        return declared.support is not Support.UNSUPPORTED

    @property
    def data_seed(self) -> int:
        """Seed of the order in which ranks share shuffled data; equal on all ranks."""
        return current_seed()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind: a process that is about to be launched has its own."""
        return {**self.__dict__, "session": None, "driver_optimizers": []}


def _callbacks(given: Any, progress_bar: bool, checkpointing: bool) -> list[Callback]:
    callbacks: list[Callback] = _listed(given)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigurationError(
                f"callbacks has {callback!r}, which is no torchrelay.Callback; give an instance of one"
            )
    if progress_bar and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(ProgressBar())
    if checkpointing and not any(isinstance(callback, Checkpointer) for callback in callbacks):
        callbacks.append(ModelCheckpoint())
    return callbacks


def _loggers(given: Any) -> list[Any]:
    loggers = _listed(given)
    for logger in loggers:
        if isinstance(logger, type) or not hasattr(logger, "log_metrics"):
            raise ConfigurationError(
                f"logger={logger!r} has no log_metrics(metrics, step); give an object that has, such as "
                "torchrelay.loggers.CSVLogger(save_dir)"
            )
    return loggers


def _listed(given: Any) -> list[Any]:
    if given is None or given is False:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]
