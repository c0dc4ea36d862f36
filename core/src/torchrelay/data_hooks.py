"""What a module and a data module may both say about data: making it, loading it, moving it to the device."""

from __future__ import annotations

from typing import Any

import torch

from torchrelay.tree import map_tensors


class DataHooks:
    """The moments at which data is made, and how a batch reaches the device. What is not overridden costs nothing."""

    prepare_data_per_node: bool = True
    """Whether `prepare_data` runs on every node, or on the first alone, for a disk that all of them share."""

    def prepare_data(self) -> None:
        """Download or write data, once a node, while the other ranks wait; set nothing on `self` here."""

    def setup(self, stage: str) -> None:
        """Build what is needed, in every process; `stage` is "fit", "validate", "test" or "predict"."""

    def teardown(self, stage: str) -> None:
        """Clean up in every process, also after an exception."""

    def train_dataloader(self) -> Any:
        """Return the batches to train on."""
        raise NotImplementedError

    def val_dataloader(self) -> Any:
        """Return the batches to validate on."""
        raise NotImplementedError

    def test_dataloader(self) -> Any:
        """Return the batches to test on."""
        raise NotImplementedError

    def predict_dataloader(self) -> Any:
        """Return the batches to predict."""
        raise NotImplementedError

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch to move, changed while it is on the host."""
        return batch

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Return the batch on the device; override it for containers that torchrelay cannot look into."""
        return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch to use, changed on the device, as augmentation there does."""
        return batch
