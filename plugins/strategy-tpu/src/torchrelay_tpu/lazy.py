"""LazyDevice: what the strategies on XLA devices do alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.strategies import Needs, Strategy
from torchrelay.tree import map_tensors
from torchrelay_tpu import refused, vendor
from torchrelay_tpu.loader import DeviceLoader
from torchrelay_tpu.placing import Moved


class LazyDevice(Strategy):
    """A strategy on XLA devices, where operations are recorded, and run once a micro-batch."""

    _moved: Moved | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_moved": None}

    def refusals(self, needs: Needs) -> list[str]:
        """No torch-xla of another torch, and no processes of which XLA does not know."""
        reasons = super().refusals(needs)
        found = vendor.examined()
        if found is not None:
            return [*reasons, found]
        return [*reasons, *refused.processes(self.cluster_environment)]

    # --- model and optimizers ---------------------------------------------------------------------------

    def place(self) -> None:
        """Move the model, whose parameters are new ones then; those that were shared are shared again."""
        self.model = self.precision_plugin.convert_module(self.module)
        self._moved = Moved(self.module, self.root_device)

    def _release(self, module: nn.Module) -> None:
        if self._moved is not None:
            self._moved.back(self.optimizers)
            self._moved = None

    # --- data and steps ---------------------------------------------------------------------------------

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        """Move batches ahead of their step; what a step has recorded runs when the next batch is asked for."""
        return DeviceLoader(loader, self.move, vendor.syncer())

    def move(self, batch: Any) -> Any:
        """A batch on the device, in the format that it has."""
        return map_tensors(batch, self._tensor_to_device)

    def _tensor_to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.root_device)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Run the module's `training_step`, whose random numbers follow from torch's generator and the batch's index.

        `torch.manual_seed`, and with it `seed_everything`, does not reach XLA's generator, and checkpoints have the
        state of torch's alone.
        """
        vendor.seed(self.root_device, batch_idx)
        return super().training_step(batch, batch_idx)

    def grad_off(self) -> AbstractContextManager[Any]:
        """Tensors of inference mode could not be used by what is compiled for training."""
        return torch.no_grad()

    # --- state ------------------------------------------------------------------------------------------

    def model_state(self) -> dict[str, Any]:
        """The module's state by parameter name, on the CPU. Collective."""
        state: dict[str, Any] = self.on_cpu(super().model_state())
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state by parameter name, on the CPU. Collective."""
        state: dict[str, Any] = self.on_cpu(super().optimizer_state(optimizer))
        return state

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Load a state by parameter name. Collective."""
        super().load_model_state(state, strict=strict)
        vendor.sync()

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Load a state by parameter name. Collective."""
        super().load_optimizer_state(optimizer, state)
        vendor.sync()

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write a checkpoint, all of whose tensors are on the CPU. Collective."""
        super().save_checkpoint(self.on_cpu(dict(checkpoint)), path)

    def on_cpu(self, value: Any) -> Any:
        """The value with its XLA tensors on the CPU, after what is pending was run once, on all replicas.

        Copied one by one, each tensor would be compiled and run by itself, and on rank 0 alone.
        """
        if self._moved is None:
            return value  # torn down: everything is there already
        vendor.sync()
        return map_tensors(value, lambda tensor: tensor.detach().cpu())
