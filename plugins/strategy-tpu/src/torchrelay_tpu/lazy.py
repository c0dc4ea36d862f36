"""LazyDevice: what the strategies on XLA devices do alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.strategies import Needs, Strategy
from torchrelay.tree import map_tensors
from torchrelay_tpu import refused, vendor
from torchrelay_tpu.loader import DeviceLoader
from torchrelay_tpu.noise import Noise, beginning
from torchrelay_tpu.placing import Moved

STATE = "tpu"
"""What a checkpoint has of the run besides weights and optimizers: where its random numbers are."""


class LazyDevice(Strategy):
    """A strategy on XLA devices, where operations are recorded, and run once a micro-batch."""

    _moved: Moved | None = None
    _noise: Noise | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_moved": None, "_noise": None}

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

    def release(self) -> None:
        """Give the user's own parameters back, on the CPU."""
        self._noise = None
        if self._moved is not None:
            self._moved.back(self.optimizers)
            self._moved = None

    def abandon(self) -> None:
        """Leave the module where it is when the run ends; nobody gets what a replica has."""
        self._moved = None

    # --- data and steps ---------------------------------------------------------------------------------

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        """Move batches ahead of their step; what a step has recorded runs when the next batch is asked for."""
        return DeviceLoader(loader, self.move, vendor.syncer())

    def move(self, batch: Any) -> Any:
        """A batch on the device, in the format that it has."""
        return map_tensors(batch, self.tensor_to_device)

    def tensor_to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device; the same one, if it is there."""
        return tensor.to(self.root_device)

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Training begins its random numbers where torch's generator is, or where a checkpoint has left them."""
        if name == "train" and self._noise is None:
            self._noise = Noise(self.collectives.broadcast(beginning()))
        return super().stage(name)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Run the module's `training_step`, whose random numbers are those of the rank and of the step's number."""
        if self._noise is not None:
            vendor.seed(self.root_device, self._noise.next(self.global_rank))
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
        """Write a checkpoint, all of whose tensors are on the CPU, with where random numbers are. Collective."""
        noise = {} if self._noise is None else {STATE: asdict(self._noise)}
        super().save_checkpoint({**self.on_cpu(dict(checkpoint)), **noise}, path)

    def load_checkpoint(self, path: Path, *, weights_only: bool = True) -> dict[str, Any]:
        """Read a checkpoint; training draws what the run that wrote it would have drawn. Collective."""
        found = super().load_checkpoint(path, weights_only=weights_only)
        noise = found.get(STATE)
        self._noise = Noise(**noise) if noise else None
        return found

    def on_cpu(self, value: Any) -> Any:
        """The value with its XLA tensors on the CPU, after what is pending was run once, on all replicas.

        Copied one by one, each tensor would be compiled and run by itself, and on rank 0 alone.
        """
        if self._moved is None:
            return value  # torn down: everything is there already
        vendor.sync()
        return map_tensors(value, lambda tensor: tensor.detach().cpu())
