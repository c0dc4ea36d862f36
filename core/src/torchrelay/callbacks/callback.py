"""Callback: acts at moments of a run without being part of the module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class Callback:
    """Acts at moments of a run; each method runs on every rank.

    The moments are those of `torchrelay.module.ModuleHooks`, with the trainer and the module in front.
    """

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; of several with one key, the order tells which."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """State to keep in a checkpoint: tensors and plain data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Act in every process before anything else; `stage` is "fit", "validate", "test" or "predict"."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Act in every process after everything else, also after an exception."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Act on an exception in this process; never communicate with the other ranks here."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act once optimizers are built and a checkpoint is restored."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act at the very end of fit."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before the validation batches that are tried first."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after the validation batches that are tried first."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before the first epoch."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after the last epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before the first batch of an epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after the last batch of an epoch and its validation."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Act before a batch."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act after a batch."""

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Act before gradients are cleared."""

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        """Act before the backward pass."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after the backward pass."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Act on finalized gradients, before they are clipped."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before validation."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after validation."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before the first validation batch."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after the last validation batch."""

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Act before a validation batch."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Act after a validation batch."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before the test."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after the test."""

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before the first test batch."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after the last test batch."""

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Act before a test batch."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Act after a test batch."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before prediction."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after prediction."""

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act before the first prediction batch."""

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after the last prediction batch."""

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Act before a prediction batch."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Act after a prediction batch."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add to a checkpoint about to be written."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read from a checkpoint about to be restored."""


class Checkpointer(Callback):
    """A callback that writes checkpoints; asked last, when a run is at a point that can be resumed exactly."""

    def on_resumable_point(self, trainer: Trainer, pl_module: LightningModule, reason: str) -> None:
        """Write a checkpoint if one is due.

        Args:
            trainer: gives metrics, counters and `save_checkpoint`.
            pl_module: the module.
            reason: "step" after an update, "validation" after a validation inside an epoch, "epoch" after an
                epoch is closed, "end" when the run stops inside an epoch.
        """
