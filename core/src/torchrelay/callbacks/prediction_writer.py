"""BasePredictionWriter: a base for what stores predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class BasePredictionWriter(Callback):
    """Stores what `predict_step` returns, on each rank its own; a subclass says how.

    Args:
        write_interval: "batch" calls `write_on_batch_end`, "epoch" `write_on_epoch_end`, "batch_and_epoch" both.
    """

    @answering
    def __init__(self, write_interval: str = "batch") -> None:
        if write_interval not in ("batch", "epoch", "batch_and_epoch"):
            raise ConfigurationError(
                f"{type(self).__name__}(write_interval={write_interval!r}): must be 'batch', 'epoch' or "
                "'batch_and_epoch'"
            )
        self.by_batch = write_interval != "epoch"
        self.by_epoch = write_interval != "batch"
        self._predictions: list[list[Any]] = []
        self._indices: list[list[list[int] | None]] = []
        for wanted, name in (
            (self.by_batch, "write_on_batch_end"),
            (self.by_epoch, "write_on_epoch_end"),
        ):
            if wanted and getattr(type(self), name) is getattr(BasePredictionWriter, name):
                raise ConfigurationError(
                    f"{type(self).__name__}(write_interval={write_interval!r}) has no {name}; define it"
                )

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Store a batch's predictions.

        Args:
            trainer: gives the rank.
            pl_module: the module.
            prediction: what `predict_step` returned.
            batch_indices: places of the batch's samples in the data set; None where they are not known.
            batch: the batch.
            batch_idx: its number on this rank.
            dataloader_idx: the number of its data loader.
        """

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any] | None,
    ) -> None:
        """Store all predictions of this rank.

        Args:
            trainer: gives the rank.
            pl_module: the module.
            predictions: what `predict_step` returned, an entry a batch; with several data loaders, a list of those
                for each.
            batch_indices: for each data loader, also if it is the only one, a list with the places of each batch's
                samples in the data set; None where they are not known.
        """

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        loaders = len(trainer.num_predict_batches)
        self._predictions = [[] for _ in range(loaders)]
        self._indices = [[] for _ in range(loaders)]

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand on a batch's predictions, and keep them for the end."""
        indices = trainer.current_batch_indices
        if self.by_batch:
            self.write_on_batch_end(
                trainer, pl_module, outputs, indices, batch, batch_idx, dataloader_idx
            )
        if self.by_epoch:
            self._predictions[dataloader_idx].append(outputs)
            self._indices[dataloader_idx].append(indices)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on all predictions."""
        if not self.by_epoch:
            return
        predictions, indices = self._predictions, self._indices
        self._predictions, self._indices = [], []
        known = all(places is not None for loader in indices for places in loader)
        self.write_on_epoch_end(
            trainer,
            pl_module,
            predictions[0] if len(predictions) == 1 else predictions,
            indices if known else None,
        )
