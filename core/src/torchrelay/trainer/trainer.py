"""Trainer: the facade. It checks and keeps what the user asked for; the work is done in the modules beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from torch import Tensor

from torchrelay.accelerators.accelerator import Accelerator
from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.datamodule import LightningDataModule
from torchrelay.errors import ConfigurationError, show_user_errors_as_one_line
from torchrelay.launchers.supervision import guard_worker
from torchrelay.module import LightningModule
from torchrelay.profilers.choice import PASS_THROUGH
from torchrelay.strategies.strategy import Strategy
from torchrelay.trainer import snapshot, watchdog
from torchrelay.trainer.bounds import Limit
from torchrelay.trainer.build import assemble
from torchrelay.trainer.equipment import choose_callbacks, choose_loggers, choose_profiler
from torchrelay.trainer.facts import Facts
from torchrelay.trainer.options import from_arguments
from torchrelay.trainer.progress import Progress
from torchrelay.trainer.report import show_results
from torchrelay.trainer.resume import resolve_path
from torchrelay.trainer.run import execute
from torchrelay.trainer.session import Job, Session, make_job


class Trainer(Facts):
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
        logger: a logger or a list of them; one of TensorBoard's, or of CSV files where that is not installed, for
            None and True; none for False.
        max_epochs: epochs after which to stop; -1 for no limit; 1000 when `max_steps` is not given either.
        min_epochs: epochs before which nobody may stop the run.
        max_steps: weight updates after which to stop; -1 for no limit.
        min_steps: weight updates before which nobody may stop the run.
        max_time: training time after which to stop: a timedelta, its arguments as a dict, or "DD:HH:MM:SS".
        limit_train_batches: so many batches an epoch (int), or a fraction of them (float).
        limit_val_batches: the same for validation.
        limit_test_batches: the same for test.
        limit_predict_batches: the same for prediction.
        overfit_batches: the same for training and validation, each time the same batches, not shuffled.
        fast_dev_run: try one batch (or so many) of each loader, without logging or checkpoints.
        val_check_interval: validate after every so many training batches (int), or after that part of an epoch
            (float); the end of each epoch when None.
        check_val_every_n_epoch: validate in every so many epochs alone; None counts the batches of
            `val_check_interval` through all epochs.
        num_sanity_val_steps: validation batches to try before training; 2 when None, -1 for all.
        log_every_n_steps: weight updates between two rows of a logger; 50 when None, 0 for never.
        reload_dataloaders_every_n_epochs: ask the module or data module for new loaders after so many epochs.
        accumulate_grad_batches: micro-batches whose gradients make one update.
        gradient_clip_val: limit for clipping; None for none.
        gradient_clip_algorithm: "norm" (default) or "value".
        use_distributed_sampler: let each rank read its share of the data.
        sync_batchnorm: compute batch norm over all ranks.
        inference_mode: evaluate under `torch.inference_mode` rather than `torch.no_grad`.
        deterministic: let torch use deterministic algorithms alone; "warn" warns where it has none.
        benchmark: let cuDNN choose the fastest algorithms by trying them; None leaves torch's setting as it is.
        detect_anomaly: end the run where a loss or a gradient is not finite, and say where. Slow.
        profiler: measure where time goes: "simple", "advanced", "pytorch", or a profiler.
        hang_timeout: seconds (or a timedelta) that ranks may wait for one another before everybody's stacks are shown
            and the run ends; longer than the longest step, hook or save. TORCHRELAY_HANG_TIMEOUT when None; no limit
            without either.
        barebones: leave out everything but the loops, to see what the rest costs.
        enable_progress_bar: show progress; yes when None.
        enable_checkpointing: keep checkpoints; adds a ModelCheckpoint unless one is among the callbacks.
        enable_model_summary: show what the module is made of before training; yes when None.
        enable_autolog_hparams: give the loggers what the modules saved as hyper-parameters.
        default_root_dir: where checkpoints and logs go; the working directory when None.

    Raises:
        UserError: what is asked for cannot be had; nothing has been started.
    """

    @answering
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
        max_time: Any = None,
        limit_train_batches: Limit | None = None,
        limit_val_batches: Limit | None = None,
        limit_test_batches: Limit | None = None,
        limit_predict_batches: Limit | None = None,
        overfit_batches: Limit = 0.0,
        fast_dev_run: int | bool = False,
        val_check_interval: Limit | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = None,
        log_every_n_steps: int | None = None,
        reload_dataloaders_every_n_epochs: int = 0,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        use_distributed_sampler: bool = True,
        sync_batchnorm: bool = False,
        inference_mode: bool = True,
        deterministic: bool | str | None = None,
        benchmark: bool | None = None,
        detect_anomaly: bool = False,
        profiler: Any = None,
        hang_timeout: float | timedelta | None = None,
        barebones: bool = False,
        enable_progress_bar: bool | None = None,
        enable_checkpointing: bool | None = None,
        enable_model_summary: bool | None = None,
        enable_autolog_hparams: bool = True,
        default_root_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        arguments = dict(locals())
        show_user_errors_as_one_line()
        guard_worker()
        self.options = from_arguments(arguments)
        self.default_root_dir = root_folder(default_root_dir)
        self.callbacks = choose_callbacks(arguments)
        self.watcher = choose_profiler(arguments)
        self.profiler = self.watcher or PASS_THROUGH
        self.hang_timeout = watchdog.seconds(hang_timeout, os.environ)
        self.resolution, self.strategy = assemble(arguments, self.options)
        self.loggers = choose_loggers(arguments, self.default_root_dir)
        self.progress = Progress()
        self.should_stop = self.interrupted = False
        self.session: Session | None = None
        self.received_metrics: dict[str, Any] = {}
        self.logged_metrics: dict[str, Tensor] = {}
        self.driver_optimizers: list[Any] = []
        self._last: LightningModule | None = None

    # --- what it does -----------------------------------------------------------------------------------

    @answering
    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train a module.

        Args:
            model: the module; it holds the fitted weights afterwards.
            train_dataloaders: batches to train on, or a list or dict of loaders, whose batches come together, the
                shorter ones anew until the longest ends (`CombinedLoader` for another way); the module's
                `train_dataloader()` when None.
            val_dataloaders: batches to validate on, or a list or dict of loaders, read one after the other; the
                module's `val_dataloader()` when None.
            datamodule: gives the data in place of both.
            ckpt_path: checkpoint of a run to go on with: a path or URL, "last", "best" or "hpc".
            weights_only: refuse checkpoints that carry pickled code; False only for files you trust.
        """
        self.should_stop = False
        loaders = {"train": train_dataloaders, "validate": val_dataloaders}
        execute(self, self._job("fit", model, loaders, datamodule, ckpt_path, weights_only))

    @answering
    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Evaluate `validation_step`; the combined metrics, one dict a data loader.

        Args:
            model: the module; the last one, with the best weights that were kept, when None.
            dataloaders: batches, or a list or dict of loaders; the module's `val_dataloader()` when None.
            ckpt_path: checkpoint to take weights from: a path or URL, "last" or "best".
            verbose: print the metrics.
            datamodule: gives the data in place of `dataloaders`.
            weights_only: refuse checkpoints that carry pickled code; False only for files you trust.
        """
        loaders = {"validate": dataloaders}
        given = (model, loaders, datamodule, ckpt_path, weights_only)
        return self._evaluate("validate", *given, verbose=verbose)

    @answering
    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Evaluate `test_step`; the combined metrics, one dict a data loader. Arguments as for `validate`."""
        loaders = {"test": dataloaders}
        given = (model, loaders, datamodule, ckpt_path, weights_only)
        return self._evaluate("test", *given, verbose=verbose)

    @answering
    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> list[Any] | None:
        """Run `predict_step`; what it returned for each batch, from all ranks.

        Each rank reads whole batches, so the list is the one that a single process would return: in the order of the
        data set, unless the loader shuffles. Data that ranks share by themselves (a data set without length, a
        distributed sampler of the user's) is returned by rank 0 for its own part.

        Args:
            model: the module; the last one, with the best weights that were kept, when None.
            dataloaders: batches, or a list or dict of loaders, for a list of lists.
            datamodule: gives the data in place of `dataloaders`.
            return_predictions: False keeps nothing, for a BasePredictionWriter to write it instead.
            ckpt_path: checkpoint to take weights from: a path or URL, "last" or "best".
            weights_only: refuse checkpoints that carry pickled code; False only for files you trust.
        """
        job = self._job(
            "predict", model, {"predict": dataloaders}, datamodule, ckpt_path, weights_only
        )
        keeps = return_predictions is not False
        results: list[Any] | None = execute(self, replace(job, keeps_predictions=keeps))
        return results

    def _evaluate(self, stage: str, *given: Any, verbose: bool) -> list[dict[str, float]]:
        results: list[dict[str, float]] = execute(self, self._job(stage, *given))
        if verbose and self.is_global_zero:
            show_results(stage, results)
        return results

    def _job(
        self,
        stage: str,
        model: LightningModule | None,
        loaders: dict[str, Any],
        datamodule: LightningDataModule | None,
        ckpt_path: Any,
        weights_only: bool | None,
    ) -> Job:
        if model is None:
            model, ckpt_path = self._last_model(stage), ckpt_path or self._best()
        self._last = model
        job = make_job(stage, model, loaders, datamodule, weights_only is not False)
        return replace(job, ckpt_path=resolve_path(self, ckpt_path, stage))

    def _last_model(self, stage: str) -> LightningModule:
        if stage == "fit" or self._last is None:
            raise ConfigurationError(
                f"{stage} needs a torchrelay.LightningModule, not None; give it: {stage}(model)"
            )
        return self._last

    def _best(self) -> str | None:
        best = getattr(self.checkpoint_callback, "best_model_path", "")
        return "best" if best else None

    @answering
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
            with self.profiler.profile("save_checkpoint"):
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

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on global rank 0 alone."""
        if self.is_global_zero:
            print(*args, **kwargs)

    @property
    def accumulate_grad_batches(self) -> int:
        """Micro-batches whose gradients make one update; a number that is set holds from the next epoch on."""
        return self.options.accumulate_grad_batches

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, number: int) -> None:
        self.options = replace(self.options, accumulate_grad_batches=number)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind: a process that is about to be launched has its own."""
        return {**self.__dict__, "session": None, "driver_optimizers": [], "_last": None}


def root_folder(given: str | os.PathLike[str] | None) -> str:
    """Where checkpoints and logs go by default.

    Raises:
        ConfigurationError: it is no path.
    """
    if not isinstance(given, (str, os.PathLike, type(None))):
        raise ConfigurationError(f"default_root_dir={given!r} must be a path, a URL or None")
    return os.fspath(given) if given else os.getcwd()
