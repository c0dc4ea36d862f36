"""One process that splits each batch between its devices: alone (dp), or one on each machine (ddp2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchrelay.collectives import Collectives, NoCollectives, TorchCollectives
from torchrelay.environments import LocalEnvironment
from torchrelay.launchers import Launcher, ScriptLauncher
from torchrelay.plugin import Capabilities
from torchrelay.strategies import Needs, ParallelStrategy, StepDispatcher, Strategy
from torchrelay_ddp.buffers import share_buffers
from torchrelay_ddp.ddp_options import split
from torchrelay_ddp.plugin import DDP2_CAPABILITIES, DP_CAPABILITIES, REPLICATES_ON_GPUS


class ReplicatedStep(StepDispatcher):
    """A step whose 0-dim loss leaves each replica as a row, so that the rows can be gathered."""

    def forward(self, name: str, *args: Any) -> Any:
        """Run the step and make its loss one-dimensional."""
        return _map_loss(super().forward(name, *args), lambda loss: loss.reshape(1))


class DataParallelStrategy(Strategy):
    """One process that splits each batch between the GPUs of one machine.

    The training step runs on replicas; their losses are averaged.

    Args:
        components: see `Strategy`.
    """

    capabilities: ClassVar[Capabilities] = DP_CAPABILITIES
    process_per_device: ClassVar[bool] = False

    @property
    def root_device(self) -> torch.device:
        """The first device; the others hold replicas."""
        return self.accelerator.device(self.devices[0])

    def default_collectives(self) -> Collectives:
        """One process has nobody to communicate with."""
        return NoCollectives()

    def refusals(self, needs: Needs) -> list[str]:
        """Only GPUs hold replicas."""
        reasons = super().refusals(needs)
        if self.accelerator.name != "cuda":
            reasons.append(REPLICATES_ON_GPUS)
        return reasons

    def wrap(self) -> None:
        """Wrap the model in replicas."""
        self.model = nn.DataParallel(ReplicatedStep(self.module), device_ids=list(self.devices))

    def raw_step(self, name: str) -> Callable[..., Any]:
        """Training runs on replicas, evaluation on the bare module."""
        if name != "training_step" or self.model is self.module:
            return super().raw_step(name)
        return averaging(self.model, name)


class DDP2Strategy(ParallelStrategy):
    """One process a machine: replicas between its devices, averaged gradients between machines.

    Ranks are machines: `world_size` is the number of nodes.

    Args:
        options: the components of a strategy, and the arguments of
            `torch.nn.parallel.DistributedDataParallel`.
    """

    capabilities: ClassVar[Capabilities] = DDP2_CAPABILITIES
    process_per_device: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        components, self.ddp_arguments = split(options, type(self))
        super().__init__(**components)

    @property
    def processes_per_node(self) -> int:
        """One process drives all devices of its machine."""
        return 1

    @property
    def root_device(self) -> torch.device:
        """The machine's first device; the others hold replicas."""
        return self.accelerator.device(self.devices[0])

    def default_collectives(self) -> Collectives:
        """torch.distributed between machines."""
        return TorchCollectives(backend=self.accelerator.process_group_backend)

    def default_launcher(self) -> Launcher | None:
        """The only process of one machine; several machines are started from outside."""
        environment = self.cluster_environment
        if environment.creates_processes or not isinstance(environment, LocalEnvironment):
            return None
        return ScriptLauncher(environment, 1)

    def refusals(self, needs: Needs) -> list[str]:
        """Several devices a machine need replicas, and those need GPUs."""
        reasons = super().refusals(needs)
        if len(self.devices) > 1 and self.accelerator.name != "cuda":
            reasons.append(
                f"devices={len(self.devices)} on accelerator {self.accelerator.name!r}: {REPLICATES_ON_GPUS}; with "
                "devices=1 ddp2 runs here"
            )
        return reasons

    def wrap(self) -> None:
        """Replicas inside, averaged gradients outside."""
        model: nn.Module = ReplicatedStep(self.module)
        if len(self.devices) > 1:
            model = nn.DataParallel(model, device_ids=list(self.devices))
        self.model = DistributedDataParallel(model, **self.ddp_arguments)

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Every rank evaluates with rank 0's buffers; in training the wrapper shares them."""
        if name != "train" and self.ddp_arguments.get("broadcast_buffers", True):
            share_buffers(self.collectives, self.module)
        return super().stage(name)

    def raw_step(self, name: str) -> Callable[..., Any]:
        """Training runs through the wrappers, evaluation on the bare module."""
        if name != "training_step" or self.model is self.module:
            return super().raw_step(name)
        return averaging(self.model, name)


def averaging(model: nn.Module, name: str) -> Callable[..., Any]:
    """A step whose loss is the mean of those of all replicas."""
    return lambda *args: _map_loss(model(name, *args), torch.Tensor.mean)


def _map_loss(outputs: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(outputs, torch.Tensor):
        return function(outputs)
    if isinstance(outputs, dict) and "loss" in outputs:
        return {**outputs, "loss": function(outputs["loss"])}
    return outputs
