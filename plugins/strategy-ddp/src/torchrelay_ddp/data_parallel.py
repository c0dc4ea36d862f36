"""One process that splits each batch between its devices: alone (dp), or one on each machine (ddp2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from torchrelay.collectives import Collectives, NoCollectives
from torchrelay.plugin import Capabilities
from torchrelay.strategies import Needs, StepDispatcher, Strategy
from torchrelay_ddp.distributed import Distributed
from torchrelay_ddp.plugin import DDP2_CAPABILITIES, DP_CAPABILITIES, REPLICATES_ON_GPUS


class ReplicatedStep(StepDispatcher):
    """A step whose 0-dim loss leaves each replica as a row, so that the rows can be gathered."""

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run the step and make its loss one-dimensional."""
        return _map_loss(super().forward(name, *args, **kwargs), lambda loss: loss.reshape(1))


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
        model = self.model
        return averaged(lambda *args: model(name, *args))


class DDP2Strategy(Distributed):
    """One process a machine: replicas between its devices, averaged gradients between machines.

    Ranks are machines: `world_size` is the number of nodes. Override `configure_ddp` to wrap the model yourself.

    Args:
        options: see `Distributed`: those of `DDPStrategy`.
    """

    capabilities: ClassVar[Capabilities] = DDP2_CAPABILITIES
    process_per_device: ClassVar[bool] = False

    @property
    def processes_per_node(self) -> int:
        """One process drives all devices of its machine."""
        return 1

    @property
    def root_device(self) -> torch.device:
        """The machine's first device; the others hold replicas."""
        return self.accelerator.device(self.devices[0])

    def refusals(self, needs: Needs) -> list[str]:
        """Several devices a machine need replicas, and those need GPUs."""
        reasons = super().refusals(needs)
        if len(self.devices) > 1 and self.accelerator.name != "cuda":
            reasons.append(
                f"devices={len(self.devices)} on accelerator {self.accelerator.name!r}: {REPLICATES_ON_GPUS}; with "
                "devices=1 ddp2 runs here"
            )
        return reasons

    def step_module(self) -> nn.Module:
        """Replicas, where there are several devices."""
        step = ReplicatedStep(self.module)
        if len(self.devices) == 1:
            return step
        return nn.DataParallel(step, device_ids=list(self.devices))

    def raw_step(self, name: str) -> Callable[..., Any]:
        """Training through the wrappers gives the mean of the replicas' losses."""
        step = super().raw_step(name)
        return averaged(step) if name == "training_step" else step


def averaged(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step whose loss is the mean of those of all replicas."""
    return lambda *args: _map_loss(step(*args), torch.Tensor.mean)


def _map_loss(outputs: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(outputs, torch.Tensor):
        return function(outputs)
    if isinstance(outputs, dict) and "loss" in outputs:
        return {**outputs, "loss": function(outputs["loss"])}
    return outputs
