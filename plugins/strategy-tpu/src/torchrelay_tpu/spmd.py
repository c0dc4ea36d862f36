"""XLASPMDStrategy: one process for all devices, sharded by annotation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from torchrelay.collectives import Collectives, NoCollectives
from torchrelay.plugin import Capabilities
from torchrelay.strategies import Needs
from torchrelay_tpu import vendor
from torchrelay_tpu.lazy import LazyDevice
from torchrelay_tpu.plugin import CAPABILITIES


class XLASPMDStrategy(LazyDevice):
    """One process sees all devices of the machine as one; what is annotated is divided between them, and XLA
    communicates.

    A batch is divided along its first dimension, so it is that of all devices together: the loader's batch size is not
    that of one device. Batch norm is over the whole batch.

    Args:
        shard_parameters: divide each parameter too, and with it its gradient and the optimizer's state, along its
            largest dimension that divides evenly; XLA gathers it where it is used.
        components: see `torchrelay.strategies.Strategy`.
    """

    capabilities: ClassVar[Capabilities] = CAPABILITIES
    process_per_device: ClassVar[bool] = False

    def __init__(self, *, shard_parameters: bool = False, **components: Any) -> None:
        super().__init__(**components)
        self.shard_parameters = shard_parameters
        self._mesh: vendor.Mesh | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_mesh": None}

    def refusals(self, needs: Needs) -> list[str]:
        """No part of the devices."""
        reasons = super().refusals(needs)
        there = self.accelerator.count()
        if len(self.devices) != there:
            reasons.append(f"devices={len(self.devices)}: {vendor.divides_all(there)}")
        return reasons

    def default_collectives(self) -> Collectives:
        """One process has nobody to communicate with."""
        return NoCollectives()

    @property
    def root_device(self) -> torch.device:
        """What stands for all devices."""
        return self.accelerator.device(0)

    def setup_environment(self) -> None:
        """Let XLA take all devices for one, before any is touched.

        Raises:
            LaunchError: they have been used otherwise in this process.
            ConfigurationError: they are not as many as the Trainer was asked for.
        """
        vendor.use_spmd()
        super().setup_environment()
        self._mesh = vendor.Mesh(len(self.devices))

    # --- what is divided --------------------------------------------------------------------------------

    def place(self) -> None:
        """Move the model and annotate its parameters."""
        super().place()
        for parameter in self.module.parameters():
            self._annotate(parameter)

    def tensor_to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor, divided along its first dimension; as it is, if it is there already."""
        moved = super().tensor_to_device(tensor)
        return moved if moved is tensor else self.mesh.divide(moved, 0)

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Load a whole state by parameter name, and divide it anew."""
        super().load_model_state(state, strict=strict)
        for parameter in self.module.parameters():
            self._annotate(parameter)

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Load a whole state by parameter name, and divide it as its parameters are."""
        super().load_optimizer_state(optimizer, state)
        for parameter, entry in optimizer.state.items():
            for value in entry.values():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    self._annotate(value)

    def _annotate(self, tensor: torch.Tensor) -> None:
        if self.shard_parameters:
            dimension = dimension_of(tensor.shape, self.mesh.size)
            if dimension is not None:
                self.mesh.divide(tensor, dimension)

    @property
    def mesh(self) -> vendor.Mesh:
        """All devices, in a row.

        Raises:
            TorchrelayError: XLA is not started yet.
        """
        if self._mesh is None:
            raise vendor.NOT_STARTED
        return self._mesh


def dimension_of(shape: Iterable[int], parts: int) -> int | None:
    """The largest dimension of a tensor that can be divided evenly; None if there is none.

    Args:
        shape: of the tensor.
        parts: how many equal parts are wanted.
    """
    even = [(size, -i) for i, size in enumerate(shape) if size and size % parts == 0]
    return -max(even)[1] if even else None
