"""LightningModule: a module that knows how it is trained, and nothing of where."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from torchrelay.checkpoint.model_state import load_model_state
from torchrelay.data_hooks import DataHooks
from torchrelay.hparams import HyperParameterMixin
from torchrelay.manual import DriverOptimizer, ManualOptimization
from torchrelay.module_facts import ModuleFacts

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer

ReduceFx = str | Callable[[torch.Tensor], torch.Tensor]


class ModuleHooks:
    """The moments at which a module may act. Overriding one makes it cost something; otherwise it is free."""

    def on_fit_start(self) -> None:
        """Act in every process once optimizers are built and a checkpoint is restored."""

    def on_fit_end(self) -> None:
        """Act at the very end of fit, on every process."""

    def on_train_start(self) -> None:
        """Act before the first epoch."""

    def on_train_end(self) -> None:
        """Act after the last epoch."""

    def on_train_epoch_start(self) -> None:
        """Act before the first batch of an epoch."""

    def on_train_epoch_end(self) -> None:
        """Act after the last batch of an epoch and its validation."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Act before a batch; return -1 to skip the rest of the epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Act after a batch; `outputs` is a dict: the "loss", divided for accumulation, and what else was returned."""

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Act before gradients are cleared."""

    def on_before_backward(self, loss: torch.Tensor) -> None:
        """Act before the backward pass; `loss` is divided for accumulation already."""

    def on_after_backward(self) -> None:
        """Act after the backward pass; gradients may still be scaled and local."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Act on finalized gradients (reduced, unscaled, not yet clipped)."""

    def on_validation_start(self) -> None:
        """Act before validation."""

    def on_validation_end(self) -> None:
        """Act after validation."""

    def on_validation_epoch_start(self) -> None:
        """Act before the first validation batch."""

    def on_validation_epoch_end(self) -> None:
        """Act after the last validation batch; what is logged here counts for the epoch."""

    def on_validation_batch_start(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Act before a validation batch."""

    def on_validation_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Act after a validation batch."""

    def on_test_start(self) -> None:
        """Act before the test."""

    def on_test_end(self) -> None:
        """Act after the test."""

    def on_test_epoch_start(self) -> None:
        """Act before the first test batch."""

    def on_test_epoch_end(self) -> None:
        """Act after the last test batch."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Act before a test batch."""

    def on_test_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Act after a test batch."""

    def on_predict_start(self) -> None:
        """Act before prediction."""

    def on_predict_end(self) -> None:
        """Act after prediction."""

    def on_predict_epoch_start(self) -> None:
        """Act before the first prediction batch."""

    def on_predict_epoch_end(self) -> None:
        """Act after the last prediction batch."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Act before a prediction batch."""

    def on_predict_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Act after a prediction batch."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint about to be written."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read from a checkpoint about to be restored."""


class LightningModule(ModuleHooks, DataHooks, ManualOptimization, HyperParameterMixin, ModuleFacts):
    """A module that knows how it is trained.

    Define `training_step` and `configure_optimizers`, and `validation_step`, `test_step` or `predict_step` as
    needed. The Trainer, or any other driver, calls them through a Strategy.
    """

    automatic_optimization: bool = True
    """Whether the driver runs backward and update; if False, `training_step` does, by `manual_backward` and
    `optimizers()`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trainer: Trainer | None = None

    # --- what the user defines --------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a batch: a 0-dim tensor, a dict with the key "loss", or None to skip the update."""
        raise NotImplementedError

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; log what is of interest."""
        raise NotImplementedError

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; log what is of interest."""
        raise NotImplementedError

    def predict_step(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the predictions for a batch; `forward` unless overridden."""
        return self(batch)

    def configure_optimizers(self) -> Any:
        """Return an optimizer; or several; or `(optimizers, schedulers)`; or a dict with "optimizer" and
        "lr_scheduler"; or None for no update at all."""
        raise NotImplementedError

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: DriverOptimizer,
        optimizer_closure: Callable[[], Any],
    ) -> None:
        """Make one update; override to skip some or to warm up the learning rate."""
        optimizer.step(closure=optimizer_closure)

    def configure_callbacks(self) -> Any:
        """Return a callback or a list of them, each in the place of any of its class that the Trainer has."""
        return []

    def configure_model(self) -> None:
        """Make the layers, in the format of the run's precision; called before each stage, so make them once."""

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the finalized gradients of an optimizer; override to do it otherwise."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: DriverOptimizer) -> None:
        """Clear the gradients of an optimizer."""
        optimizer.zero_grad()

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a learning-rate scheduler; `metric` is what it watches, None if it watches nothing."""
        if metric is None:
            scheduler.step()
        else:
            scheduler.step(metric)

    def on_validation_model_eval(self) -> None:
        """Put the module into evaluation mode."""
        self.eval()

    def on_validation_model_train(self) -> None:
        """Put the module back into training mode; each part gets the mode it had where this is not overridden."""
        self.train()

    def on_test_model_eval(self) -> None:
        """Put the module into evaluation mode."""
        self.eval()

    def on_test_model_train(self) -> None:
        """Put the module back into training mode; each part gets the mode it had where this is not overridden."""
        self.train()

    def on_predict_model_eval(self) -> None:
        """Put the module into evaluation mode."""
        self.eval()

    def on_predict_model_train(self) -> None:
        """Put the module back into training mode; each part gets the mode it had where this is not overridden."""
        self.train()

    # --- what the driver provides -----------------------------------------------------------------------

    def log(  # noqa: PLR0913 - Lightning's arguments, all of them
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: ReduceFx = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log a value; never waits for the device. All calls of a name in a stage give the same options.

        Args:
            name: name of the metric.
            value: a number, a tensor of one element, or an object with `compute` and `reset` that collects by
                itself, over ranks too, as torchmetrics' `Metric`; it is computed when the epoch ends, then reset.
            prog_bar: show it in the progress bar.
            logger: send it to the loggers, unless False.
            on_step: keep the value of each step; default: in training steps. Of an object, that of its last
                `forward`.
            on_epoch: combine over the epoch; default: everywhere but in training steps. With `on_step` too,
                the names become `NAME_step` and `NAME_epoch`.
            reduce_fx: how to combine over the epoch: "mean" (weighted by batch size), "sum", "min", "max".
            enable_graph: keep the graph of the value, and with it what it holds on to; not over ranks.
            sync_dist: combine over ranks as well; otherwise each rank keeps its own.
            sync_dist_group: None; metrics are combined over all ranks.
            add_dataloader_idx: where there are several data loaders, add `/dataloader_idx_N` to the names.
            batch_size: weight in the mean; found from the batch when None.
            metric_attribute: where in the module an object is, if that cannot be found out.
            rank_zero_only: keep it on rank 0 alone; no callback on another rank sees it.
        """
        if self._trainer is None:
            warnings.warn(
                f"log({name!r}) has no effect: no Trainer drives this module", stacklevel=2
            )
            return
        # fmt: off
        asked = (
            prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
            add_dataloader_idx, metric_attribute, rank_zero_only,
        )
        # fmt: on
        self._trainer.metrics.record(name, value, asked, batch_size)

    def log_dict(
        self,
        dictionary: Mapping[str, Any] | Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: ReduceFx = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log several values, or the metrics of a torchmetrics `MetricCollection`; the options are those of `log`."""
        if self._trainer is None:
            warnings.warn("log_dict has no effect: no Trainer drives this module", stacklevel=2)
            return
        # fmt: off
        asked = (
            prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
            add_dataloader_idx, None, rank_zero_only,
        )
        # fmt: on
        record = self._trainer.metrics.record
        # A collection's metrics by their full names, without copying the state that some of them share.
        collected = hasattr(dictionary, "compute")
        options = {"keep_base": False, "copy_state": False} if collected else {}
        for name, value in dictionary.items(**options):
            record(name, value, asked, batch_size)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on global rank 0 alone."""
        if self.global_rank == 0:
            print(*args, **kwargs)

    def all_gather(self, data: Any, sync_grads: bool = False) -> Any:
        """Collect tensors of equal shape (*s) from all ranks into (world_size, *s). Collective."""
        return self.trainer.strategy.collectives.all_gather(data, sync_grads)

    def freeze(self) -> None:
        """Let no parameter require a gradient, in evaluation mode."""
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self) -> None:
        """Let every parameter require a gradient, in training mode."""
        self.requires_grad_(True)
        self.train()

    def load_from(self, checkpoint: dict[str, Any], *, strict: bool = True) -> None:
        """Take up the weights of a checkpoint; see `load_from_checkpoint`."""
        self.configure_model()
        self.on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        tensors = (value for value in state.values() if isinstance(value, torch.Tensor))
        self.to(next((tensor.device for tensor in tensors), "cpu"))
        load_model_state(self, state, strict=strict)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the driver behind: deepcopy and pickle would follow it to everything else."""
        return {**self.__dict__, "_trainer": None}


def is_overridden(name: str, instance: object, base: type) -> bool:
    """Whether an object defines a method itself, in its class or on the instance, rather than taking `base`'s."""
    if name in vars(instance):
        return True
    mine = getattr(type(instance), name, None)
    return mine is not None and mine is not getattr(base, name, None)
